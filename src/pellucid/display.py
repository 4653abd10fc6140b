"""Shows a stream in a notebook, updated in place while it runs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from pellucid.markup import Fragment

__all__ = ["follow"]

INTERVAL = 0.1  # least seconds between two pictures
MOST_RATE = 500_000  # bytes of pictures per second; Jupyter's server by default drops output beyond twice that


def follow(items: Iterable[object], draw: Callable[[Fragment], None], plain: Callable[[], str]) -> None:
    """Takes all items, and shows what `draw` draws: before the first, in between, and after the last or after an error,
    which is raised. plain: the text for a front end without HTML."""
    from IPython.display import display

    def picture() -> dict[str, str]:
        fragment = Fragment()
        draw(fragment)
        return {"text/html": fragment.html(), "text/plain": plain()}

    handle = display(picture(), raw=True, display_id=True)
    due = time.monotonic() + INTERVAL
    try:
        for _ in items:
            if time.monotonic() >= due:
                shown = picture()
                handle.update(shown, raw=True)
                due = time.monotonic() + max(INTERVAL, len(shown["text/html"].encode()) / MOST_RATE)
    finally:
        handle.update(picture(), raw=True)
