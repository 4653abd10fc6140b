"""Adapters of Pellucid for other packages: one module for each, which needs the extra of its name. Nothing else in the
library imports them."""
