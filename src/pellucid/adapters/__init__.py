"""Pellucid in the terms of other packages, one module for each, which needs the extra of its name. Nothing else of the
library imports them."""
