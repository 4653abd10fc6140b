"""How each step of the sampler changes a model's probabilities, and which token is then drawn."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pellucid import arguments, checks
from pellucid.errors import WrongValue
from pellucid.look.filters import Filters, dry_lengths, softmax, uniform
from pellucid.markup import count
from pellucid.sampling import SamplingOptions
from pellucid.text.breakers import Breakers

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from pellucid.options import GenerateOptions

__all__ = ["SORTED", "Drawn", "Step", "Steps", "steps"]

Floats = npt.NDArray[np.float64]
SORTED = 1024  # the engine draws from lists up to this length in the order of probability, from others in that of ids


class Step(NamedTuple):
    """The m tokens left after a step, the most probable first, and their probabilities, which sum to 1."""

    name: str
    ids: npt.NDArray[np.intp]
    probabilities: Floats

    def __repr__(self) -> str:
        return f"<Step {self.name!r}: {count(len(self.ids), 'token')} left, the likeliest {self.probabilities[0]:.3f}>"


class Drawn(NamedTuple):
    """A token drawn: the first in ``ids`` at which the cumulative probability exceeds ``u``."""

    id: int
    u: float  # the random number, in [0, 1)
    ids: npt.NDArray[np.intp]  # the tokens left, in the order in which the engine sums them
    probabilities: Floats


class Steps(list[Step]):
    """The model's distribution, then the one after each step; :meth:`draw` draws a token from the last one."""

    def __init__(self, found: Iterable[Step], o: SamplingOptions, number: int, mu: float, by_id: bool) -> None:
        super().__init__(found)
        self._options, self._number, self._mu, self._by_id = o, number, mu, by_id

    @property
    def kept(self) -> int:
        """The number of tokens left after the last step."""
        return len(self[-1].ids)

    def mu(self, id: int) -> float:
        """Mirostat's mu for the next token, if this one is `id`; without Mirostat, mu is unchanged. Raises ValueError
        for a token that the last step removed."""
        _, ids, p = self[-1]
        at = np.flatnonzero(ids == id)
        if not len(at):
            raise WrongValue("id", f"={checks.shown(id)}: expected a token that is left after the last step")
        if not self._options.mirostat or self._options.temperature == 0:
            return self._mu
        tau, eta = (float(np.float32(x)) for x in (self._options.mirostat_tau, self._options.mirostat_eta))
        return self._mu + eta * (float(np.log2(p[at[0]])) + tau)

    def draw(self, seed: int | None = None) -> Drawn:
        """The token that a generation with this seed draws here. seed: by default, that of the options. With more than
        1,024 tokens the engine sums in float32 and may, rarely, draw the neighbouring token. Raises ValueError without
        a seed."""
        own = self._options.seed if seed is None else checks.integer("seed", seed, 0, 2**64 - 1)
        if not isinstance(own, int):
            raise WrongValue("seed", " is needed to draw a token: steps(..., seed=1) or draw(1)")
        _, ids, p = self[-1]
        if self._by_id or len(ids) > SORTED:
            order = np.argsort(ids, kind="stable")
            ids, p = ids[order], p[order]
        u = uniform(own, self._number)
        possible = np.flatnonzero(p > 0)
        at = int(np.searchsorted(np.cumsum(p[possible]), u * p.sum(), "right"))
        return Drawn(int(ids[possible[min(at, len(possible) - 1)]]), u, ids, p)


def steps(
    logits: npt.ArrayLike,
    *,
    before: Any = (),
    piece: Callable[[int], bytes] | None = None,
    number: int = 0,
    mu: float | None = None,
    suppressed: Any = (),
    **options: Unpack[GenerateOptions],
) -> Steps:
    """A position's logits (vocab) -> the model's distribution, then the one after each step that is on, in the order of
    ``samplers``. A token is drawn from the last one. The options are those of ``Model.generate``.

    before: the ids of all tokens before, the last of which penalties and DRY read.
    piece: a tokenizer's ``piece``, which finds the ``dry_breakers``; without it, there are no breakers.
    number: index of the new token, from 0: with ``seed``, it determines XTC's random number and that of the draw.
    Without a seed, XTC always acts.
    mu: Mirostat's; default: 2 tau, as for the first token. ``Steps.mu`` is that of the next token.
    suppressed: tokens that the model's files forbid (``model.info().suppressed``), unless ``logit_bias`` names them.

    Raises ValueError or TypeError naming the option, as ``Model.generate`` does, and for logits of another shape or
    from which no token can be drawn.
    """
    o = SamplingOptions.parse(options)
    if isinstance(o.seed, tuple):
        raise WrongValue("seed", " has several values: expected one")
    try:
        x = np.asarray(logits, np.float64)
    except (TypeError, ValueError):
        raise TypeError("logits must be numbers") from None
    if x.ndim != 1 or not len(x):
        raise ValueError(f"logits has shape {x.shape}, expected (vocab)")
    if np.isnan(x).any() or not np.isfinite(x.max()):
        raise ValueError("logits has numbers that are not finite: expected numbers, or -inf for some tokens")
    past = arguments.check_ids(before, "before", len(x), empty=True)
    forbidden = arguments.check_ids(suppressed, "suppressed", len(x), empty=True)
    number = checks.integer("number", number, 0, 2**64 - 1)
    start = 2 * o.mirostat_tau if mu is None else checks.number("mu", mu)
    run = _Run(x, o, past, piece, {**dict.fromkeys(forbidden, -np.inf), **o.logit_bias})
    run.step(number, start)
    return Steps(run.found, o, number, start, run.filters.by_id)


class _Run:
    def __init__(
        self,
        x: Floats,
        o: SamplingOptions,
        past: list[int],
        piece: Callable[[int], bytes] | None,
        bias: Mapping[int, float],
    ) -> None:
        self.o, self.past, self.piece, self.bias = o, past, piece, bias
        self.filters = Filters(x)
        self.found: list[Step] = []
        self.show("model")

    def show(self, name: str) -> None:
        s = self.filters
        if not len(s.ids):
            raise ValueError("no token is left: the options forbid every one")
        self.found.append(Step(name, s.ids, softmax(s.x)))

    def step(self, number: int, mu: float) -> None:
        o = self.o
        u = 0.0 if o.seed is None else uniform(o.seed, number, 1)  # type: ignore[arg-type]
        biased = not self.bias
        for name in (*o.samplers, ""):
            if not biased and name not in ("penalties", "dry"):
                biased = True
                self._bias()
            if name in ("penalties", "dry"):
                self._alter(name)
            elif name and o.temperature > 0 and (name == "temperature" or not o.mirostat):
                self._filter(name, u)
        if o.temperature == 0:
            self.found.append(Step("greedy", self.filters.ids[:1], np.ones(1)))
        elif o.mirostat:
            self.filters.mirostat(mu)
            self.show(f"mirostat {mu:g}")

    def _alter(self, name: str) -> None:
        o, s = self.o, self.filters
        if name == "penalties":
            recent = self.past[max(len(self.past) - o.repeat_last, 0) :]
            if o.penalised() and recent:
                s.penalties(recent, o.repeat_penalty or 1, o.presence_penalty, o.frequency_penalty)
                self.show("penalties")
        elif o.dry():
            marks = (
                list(Breakers(self.piece, o.dry_breakers).marks(self.past)) if self.piece and o.dry_breakers else None
            )
            start = 0 if o.dry_range < 0 else max(len(self.past) - o.dry_range, 0)
            lengths = dry_lengths(self.past[start:], o.dry_allowed_length, marks and marks[start:])
            if lengths:
                s.dry(lengths, o.dry_multiplier, o.dry_base, o.dry_allowed_length)
                self.show(f"dry {o.dry_multiplier:g}")

    def _bias(self) -> None:
        s, bias = self.filters, self.bias
        known = dict(zip(s.ids.tolist(), s.x.tolist(), strict=True))
        s.change({id: known[id] + value for id, value in bias.items() if id in known})
        self.show("bias")

    def _filter(self, name: str, u: float) -> None:
        o, s = self.o, self.filters
        if name == "top_n_sigma" and o.top_n_sigma > 0:
            s.top_n_sigma(o.top_n_sigma)
            self.show(f"top-n-sigma {o.top_n_sigma:g}")
        elif name == "top_k" and o.top_k > 0:
            s.top_k(o.top_k)
            self.show(f"top-k {o.top_k}")
        elif name == "typical_p" and 0 < o.typical_p < 1:
            s.typical_p(o.typical_p)
            self.show(f"typical-p {o.typical_p:g}")
        elif name == "top_p" and o.top_p < 1:
            s.top_p(o.top_p)
            self.show(f"top-p {o.top_p:g}")
        elif name == "min_p" and o.min_p > 0:
            s.min_p(o.min_p)
            self.show(f"min-p {o.min_p:g}")
        elif name == "xtc" and o.xtc_probability > 0:
            s.xtc(u, o.xtc_probability, o.xtc_threshold)
            self.show(f"xtc {o.xtc_probability:g}")
        elif name == "temperature" and (o.temperature != 1 or o.dynatemp_range > 0):
            s.temperature(o.temperature, o.dynatemp_range, o.dynatemp_exponent)
            self.show(f"temperature {s.scale:g}")
