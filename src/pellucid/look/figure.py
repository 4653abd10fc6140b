"""A Matplotlib figure that a notebook shows. Imported only when a figure is made: Matplotlib is optional and heavy."""

from __future__ import annotations

import io
import warnings
from typing import Any

from matplotlib.figure import Figure as Base

__all__ = ["Figure"]


class Figure(Base):
    """A figure made without pyplot: it has no window and no shared state. As the last value of a cell it is shown, even
    in a kernel without `%matplotlib inline`. Characters that the font lacks become boxes, without a warning."""

    def _repr_png_(self) -> bytes:
        out = io.BytesIO()
        self.savefig(out, format="png")
        return out.getvalue()

    def savefig(self, *arguments: Any, **options: Any) -> None:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Glyph|Matplotlib currently does not support", UserWarning)
            super().savefig(*arguments, **options)
