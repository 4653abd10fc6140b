"""Checks that a tag may be released: it is `v` and the package's version, and the changelog has a dated section for it.

python packaging/release.py v0.1.0
"""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def version(root: Path = ROOT) -> str:
    """The version of the package's sources; pyproject.toml reads the same line."""
    for node in ast.parse((root / "src/pellucid/__init__.py").read_text()).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__version__":
            return str(ast.literal_eval(node.value))
    raise SystemExit("src/pellucid/__init__.py has no __version__")


def check(tag: str, root: Path = ROOT) -> None:
    """Raises SystemExit, saying what to do, unless `tag` may be released."""
    found = version(root)
    if tag != f"v{found}":
        raise SystemExit(f"the tag is {tag} and the version {found}: set __version__ in src/pellucid/__init__.py")
    changelog = (root / "CHANGELOG.md").read_text()
    section = re.search(rf"^## {re.escape(found)} \(([^)\n]*)\)\n+(.*?)(?=^## |\Z)", changelog, re.M | re.S)
    if section is None:
        raise SystemExit(f"CHANGELOG.md has no section `## {found} (YYYY-MM-DD)`")
    if not re.fullmatch(r"\d{4}-\d\d-\d\d", section[1]):
        raise SystemExit(f"CHANGELOG.md gives {found} as ({section[1]}), expected the date of the release")
    if not section[2].strip():
        raise SystemExit(f"CHANGELOG.md's section on {found} is empty")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    check(sys.argv[1])
