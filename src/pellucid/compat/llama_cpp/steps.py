"""Single steps: `eval` computes tokens, `sample` draws the next one, `generate` does both in turn."""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from pellucid import Context, Model, _engine
from pellucid.compat.llama_cpp.arguments import request
from pellucid.context import draw
from pellucid.errors import ContextFullError
from pellucid.openai.fields import completion_call
from pellucid.openai.limits import UNBOUNDED
from pellucid.sampling import SamplingOptions

__all__ = ["Steps", "context_errors"]


class Steps:
    """The part of `Llama` that holds tokens between calls. They do not affect texts, chats and embeddings."""

    _seed: int | None
    last_n_tokens_size: int

    def __init__(self, model: Model, logits_all: bool) -> None:
        self._stepped = model
        self._all: npt.NDArray[np.float32] | None = None
        if logits_all:  # its pages are taken as rows are written
            self._all = np.zeros((model.context_length, model.info().vocab), np.float32)
        self._restart()

    def _restart(self) -> None:
        """Makes the draws of `sample` begin anew."""
        self._draws = 0
        self._drawn_seed = int.from_bytes(os.urandom(8), "little")  # if none is given

    @cached_property
    def _context(self) -> Context:
        """Made on first use: a model that only embeds has none."""
        return self._stepped.context()

    def _held(self) -> list[int]:
        return self._context.ids if "_context" in self.__dict__ else []

    # ---- what is held -----------------------------------------------------------------------------------------------

    @property
    def n_tokens(self) -> int:
        """How many tokens are held. A smaller number may be set, which drops those after it."""
        return self._context.length

    @n_tokens.setter
    def n_tokens(self, n: int) -> None:
        self._context.rewind(n)

    @property
    def input_ids(self) -> npt.NDArray[np.intc]:
        """The tokens held, and zeros after them -> int (n_ctx). A copy."""
        out = np.zeros(self._stepped.context_length, np.intc)
        ids = self._context.ids[: len(out)]
        out[: len(ids)] = ids
        return out

    @property
    def scores(self) -> npt.NDArray[np.float32]:
        """Logits after each token held -> float32 (n_ctx, vocab); rows from n_tokens on mean nothing. Raises
        RuntimeError without logits_all=True."""
        if self._all is None:
            raise RuntimeError("scores: expected Llama(logits_all=True)")
        return self._all

    @property
    def _input_ids(self) -> npt.NDArray[np.intc]:
        return self.input_ids[: self.n_tokens]

    @property
    def _scores(self) -> npt.NDArray[np.float32]:
        return self.scores[: self.n_tokens]

    @property
    def eval_tokens(self) -> deque[int]:
        return deque(self._context.ids, maxlen=self._stepped.context_length)

    @property
    def eval_logits(self) -> deque[list[float]]:
        """Logits after each token held; without logits_all=True, after the last one alone."""
        if self._all is not None:
            return deque(self._scores.tolist(), maxlen=self._stepped.context_length)
        return deque([self._context.logits().tolist()] if self.n_tokens else [], maxlen=1)

    # ---- steps ------------------------------------------------------------------------------------------------------

    def reset(self) -> None:
        """Drops the tokens held."""
        self._go_to(())
        self._restart()

    def eval(self, tokens: Sequence[int]) -> None:
        """Adds tokens and computes them: all, or none if it raises. Raises ValueError if they do not fit the
        context."""
        before = self._context.length
        with context_errors():
            self._context.append([int(id) for id in tokens])
        if self._all is None or before == self._context.length:
            return
        try:
            if before == 0:
                self._all[: self.n_tokens] = self._stepped.logits(self._context.ids)
                return
            with self._context.fork() as part:  # the rows of some tokens of a context, one by one
                for n in range(part.length, before, -1):
                    part.rewind(n)
                    self._all[n - 1] = part.logits()
        except BaseException:
            self._context.rewind(before)
            raise

    def sample(
        self,
        top_k: int = 40,
        top_p: float = 0.95,
        min_p: float = 0.05,
        typical_p: float = 1.0,
        temp: float = 0.80,
        repeat_penalty: float = 1.0,
        frequency_penalty: float = 0.0,
        presence_penalty: float = 0.0,
        tfs_z: float = 1.0,
        mirostat_mode: int = 0,
        mirostat_eta: float = 0.1,
        mirostat_tau: float = 5.0,
        penalize_nl: bool = True,
        logits_processor: Any = None,
        grammar: Any = None,
        idx: int | None = None,
    ) -> int:
        """Draws the token after the last one held, which may be one that ends a text; it is not added. idx: after the
        token at this position. penalize_nl: without effect. A seed gives the draws since it was set, or since `reset`,
        each its own number: those of `generate`.

        Raises ValueError if no token is held; NotImplementedError for a grammar and for logits_processor.
        """
        given = {name: value for name, value in locals().items() if name not in ("self", "idx")}
        sampler = self._sampler(given)
        sampler.advance(self._draws)
        if idx is None:
            sampler.extend(self._context.ids)
            id = draw(self._context, sampler)
        else:
            with self._context.fork() as part:
                part.rewind(idx + 1)
                sampler.extend(part.ids)
                id = draw(part, sampler)
        self._draws += 1
        return id

    def generate(
        self,
        tokens: Sequence[int],
        top_k: int = 40,
        top_p: float = 0.95,
        min_p: float = 0.05,
        typical_p: float = 1.0,
        temp: float = 0.80,
        repeat_penalty: float = 1.0,
        reset: bool = True,
        frequency_penalty: float = 0.0,
        presence_penalty: float = 0.0,
        tfs_z: float = 1.0,
        mirostat_mode: int = 0,
        mirostat_tau: float = 5.0,
        mirostat_eta: float = 0.1,
        penalize_nl: bool = True,
        logits_processor: Any = None,
        stopping_criteria: Any = None,
        grammar: Any = None,
    ) -> Iterator[int]:
        """Tokens that follow `tokens`, one after another, without an end, even after one that ends a text. What is sent
        to the generator is added after the token that it yielded. reset: `tokens` replace those held, of which a common
        beginning is not computed again; else they are added.

        Raises ValueError if the context is full; NotImplementedError as `sample`, and for stopping_criteria.
        """
        given = {name: value for name, value in locals().items() if name not in ("self", "tokens", "reset")}
        self._restart()
        return self._generate([int(id) for id in tokens], reset, self._sampler(given))

    def _generate(self, tokens: list[int], reset: bool, sampler: _engine.Sampler) -> Iterator[int]:
        if reset:
            self._go_to(tokens)
        else:
            self.eval(tokens)
        sampler.extend(self._context.ids)
        while True:
            id = draw(self._context, sampler)
            sent: Any = yield id
            more = [id, *(sent or ())]
            self.eval(more)
            sampler.extend(more)

    @staticmethod
    def longest_token_prefix(a: Sequence[int], b: Sequence[int]) -> int:
        """How many tokens both have in common at the beginning."""
        return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))

    def _go_to(self, tokens: Sequence[int]) -> None:
        """Holds these tokens, and keeps what was computed for their beginning."""
        held = self._held()
        if not held and not tokens:
            return
        same = self.longest_token_prefix(held, tokens)
        self._context.rewind(same)
        self.eval(tokens[same:])

    def _sampler(self, given: dict[str, Any]) -> _engine.Sampler:
        """The sampler for the arguments of `sample`."""
        if given.pop("grammar") is not None:
            raise NotImplementedError("grammar is not supported by sample and generate: see create_completion")
        given = {name: value for name, value in given.items() if name != "penalize_nl"}
        given["temperature"] = given.pop("temp")
        fields, _ = request(given, self.last_n_tokens_size, self._seed)
        options = SamplingOptions(**completion_call({"prompt": " ", **fields}, UNBOUNDED).options)
        settings = options.sampler()
        settings["seed"] = self._drawn_seed if options.seed is None else options.seed
        settings["bias"] = dict.fromkeys(self._stepped.core.facts.suppressed, -math.inf)
        return _engine.Sampler(**settings)


@contextmanager
def context_errors() -> Iterator[None]:
    """Raises the error of a prompt that is too long in the words that programs look for."""
    try:
        yield
    except ContextFullError as error:
        raise ValueError(f"Requested tokens ({error.needed}) exceed context window of {error.available}") from error
