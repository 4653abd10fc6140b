"""Makes golden files (extra `reference`): python -m tests.families.make_golden [--all | --new | NAME ...]"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np


def main(cases: Mapping[str, Any], folder: Path, make: Callable[[Any], Any], save: Callable[[Any, Any], None]) -> None:
    """folder: of the golden files; make: a case -> its values; save: writes them."""
    parser = argparse.ArgumentParser(description="Make the stored values of tiny models.")
    parser.add_argument("names", nargs="*", metavar="NAME", choices=[[], *cases], help="cases")
    parser.add_argument("--all", action="store_true", help="every case")
    parser.add_argument("--new", action="store_true", help="every case that has no golden file")
    options = parser.parse_args()
    new = [name for name in cases if not (folder / f"{name}.npz").exists()]
    for name in cases if options.all else new if options.new else options.names:
        golden = make(cases[name])
        for part in (golden, getattr(golden, "model", golden)):
            values = [value for value in vars(part).values() if isinstance(value, np.ndarray)]
            assert all(np.isfinite(value).all() for value in values), name
        save(cases[name], golden)
        print(f"{name}: {(folder / f'{name}.npz').stat().st_size} bytes", flush=True)


if __name__ == "__main__":
    from tests.families import reference
    from tests.families.case import GOLDEN, save_golden
    from tests.families.cases import BY_NAME

    main(BY_NAME, GOLDEN, reference.make, save_golden)
