"""`python -m pellucid`: the command line."""

from __future__ import annotations

import sys

from pellucid.cli import main

sys.exit(main())
