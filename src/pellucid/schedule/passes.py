"""How the rows of a forward pass are shared among requests: pure functions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

__all__ = ["LEAST_PREFILL", "Want", "shares"]

LEAST_PREFILL = 16  # rows of a prompt that a pass computes beside new tokens, however long that takes


class Want(NamedTuple):
    """The rows that a request could use. fresh: whether it decodes, so that its text waits for this pass; call: the
    number of its call, whose requests get at most `most` rows together; served: rows that its key had."""

    rows: int
    fresh: bool
    call: int = 0
    most: int = 1 << 30
    served: int = 0


def shares(wants: Sequence[Want], room: int, prefill: int) -> list[int]:
    """The rows of each request in the next pass. wants: the oldest request first.

    room: the most rows of the pass; decoding requests get theirs first. prefill: the most rows for prompts if any
    request decodes. Of these, the oldest prompt of the key that had the fewest gets half, and the prompt of that key
    that lacks the fewest rows gets the other half: a short prompt overtakes a long one, and the oldest takes at most
    twice as long as alone. Rows that they do not need go to the others: first to keys that had fewer, then to the
    oldest.
    """
    n = len(wants)
    if n <= room and all(want.fresh and want.rows == 1 and want.most >= n for want in wants):
        return [1] * n
    out = [0] * n
    left: dict[int, int] = {}

    def give(i: int, rows: int) -> int:
        """Gives request i up to `rows` more -> how many."""
        want = wants[i]
        of_call = left.get(want.call, want.most)
        rows = min(rows, want.rows - out[i], of_call)
        left[want.call] = of_call - rows
        out[i] += rows
        return rows

    prompts = []
    for i, want in enumerate(wants):
        if want.fresh:
            room -= give(i, min(want.rows, room))
        else:
            prompts.append(i)
    if not prompts:
        return out
    if len(prompts) < n:
        room = min(room, prefill)
    prompts.sort(key=lambda i: wants[i].served)
    oldest = prompts[0]
    shortest = min((i for i in prompts if wants[i].served == wants[oldest].served), key=lambda i: wants[i].rows)
    room -= give(oldest, room if shortest == oldest else (room + 1) // 2)
    for i in (shortest, *prompts):
        room -= give(i, room)
    return out
