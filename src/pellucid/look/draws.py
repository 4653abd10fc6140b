"""How each token of a completion was drawn."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pellucid.core import Core, Loaded
from pellucid.errors import WrongType, WrongValue
from pellucid.look import choice, record
from pellucid.look.places import find
from pellucid.look.sizes import Selection
from pellucid.results import Completion
from pellucid.sampling import SamplingOptions
from pellucid.schedule.turns import Turns

__all__ = ["drawn"]


def drawn(model: Loaded, completion: Completion) -> Iterator[choice.Steps]:
    """What the sampler did for each new token of a completion -> for each of its ``ids`` in turn, the steps of
    ``look.choice.steps``: ``kept`` is the number of tokens left, ``draw()`` returns the random number and the token
    drawn. The prompt and the new tokens run once more, with the same bits.

    model: the one that made the completion. Tokens that replace one with a part of a stop string were not drawn. Raises
    TypeError; ValueError if a schema, expression or grammar constrained the text, since these steps do not include it.
    """
    if not isinstance(completion, Completion):
        raise WrongType("completion", f" must be a Completion, not {type(completion).__name__}")
    core, o = model.core, completion.options
    core.decoder()
    if o.structure() is not None:
        raise WrongValue("completion", ": a schema, expression or grammar constrained its text")
    ids = core.check_ids([*completion.prompt_ids, *completion.ids], "completion")
    return _steps(core, ids, len(completion.prompt_ids), o)


def _steps(core: Core, ids: Sequence[int], prompt: int, o: SamplingOptions) -> Iterator[choice.Steps]:
    if len(ids) == prompt:
        return
    places = find(core.open().plan)
    last, positions = len(places.layers) - 1, tuple(range(prompt - 1, len(ids) - 1))
    s = Selection(("hidden",), (last,), (0,), positions, len(ids) - 1)
    with Turns(core, "trace", [len(ids)]) as turns:
        rows = record.record(turns, ids[:-1], s, places, 512)["hidden"][-1]
    piece, mu = None if core.tokenizer is None else core.piece, None
    for block, logits in record.head_blocks(turns, places, rows):
        for number, row in enumerate(logits, block.start):
            before = ids[: prompt + number]
            found = choice.steps(
                row, before=before, piece=piece, number=number, mu=mu, suppressed=core.facts.suppressed, options=o
            )
            yield found
            mu = found.mu(ids[prompt + number]) if o.mirostat else None
