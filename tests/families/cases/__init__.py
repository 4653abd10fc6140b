"""The table of cases: each file here has CASES."""

from __future__ import annotations

import importlib
import pkgutil

from tests.families.case import Case

CASES: tuple[Case, ...] = tuple(
    case
    for name in sorted(module.name for module in pkgutil.iter_modules(__path__))
    for case in importlib.import_module(f"{__name__}.{name}").CASES
)
BY_NAME = {case.name: case for case in CASES}
assert len(BY_NAME) == len(CASES), "two cases have the same name"
