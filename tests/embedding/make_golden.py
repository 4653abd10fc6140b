"""Makes golden files (extra `reference`): python -m tests.embedding.make_golden [--all | --new | NAME ...]"""

from __future__ import annotations

from tests.embedding import reference
from tests.embedding.cases import BY_NAME
from tests.embedding.files import GOLDEN, save_golden
from tests.families.make_golden import main

if __name__ == "__main__":
    main(BY_NAME, GOLDEN, reference.make, save_golden)
