"""Answers as OpenAI's objects to requests in OpenAI's fields, without a server."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

from pellucid import Completion, Model, Piece
from pellucid.openai.fields import Call
from pellucid.openai.parts import Part, merged, part_of
from pellucid.openai.shapes import ChatObjects, CompletionObjects, usage

__all__ = ["Answer"]


class Answer:
    """One answer while it is made: whole, or as the events of a stream.

    name: of the model, in the answer. Raises what ``Model.submit`` raises.
    """

    def __init__(self, model: Model, call: Call, name: str) -> None:
        options: dict[str, Any] = {**call.options, "n": call.n, "priority": call.priority, "cache_salt": call.salt}
        if call.messages is not None:
            self.request = model.submit(messages=call.messages, **call.template, **options)
        else:
            self.request = model.submit(call.prompts[0], **options)
        kind = CompletionObjects if call.messages is None else ChatObjects
        self.objects = kind(model.core, secrets.token_hex(12), name, top=call.logprobs, token_ids=call.token_ids)
        self._call = call
        self._new = self._reasoning = 0
        self.timings: dict[str, float] = {}  # of the first completion, at its end

    # ---- whole --------------------------------------------------------------------------------------------------

    def whole(self) -> dict[str, Any]:
        """Waits for the answer."""
        try:
            return self._whole(self.request.result())
        finally:
            self.request.cancel()

    async def awhole(self) -> dict[str, Any]:
        """The same in an event loop. Cancelling the task ends the generation."""
        try:
            return self._whole(await self.request)
        finally:
            self.request.cancel()

    def _whole(self, found: Completion | Sequence[Completion]) -> dict[str, Any]:
        done = [found] if isinstance(found, Completion) else found
        self._new = sum(len(one.ids) for one in done)
        self._reasoning = sum(one.reasoning_tokens for one in done)
        self.timings = done[0].timings.to_dict()
        return self.objects.answer([part_of(one) for one in done], self.used())

    # ---- in pieces ----------------------------------------------------------------------------------------------

    def events(self) -> Iterator[dict[str, Any]]:
        """The events as they are made. Closing the iterator ends the generation."""
        try:
            yield from self._begin()
            for piece in self.request:
                yield from self._more(piece)
        finally:
            self.request.cancel()

    async def aevents(self) -> AsyncIterator[dict[str, Any]]:
        """The same in an event loop."""
        try:
            for event in self._begin():
                yield event
            async for piece in self.request:
                for event in self._more(piece):
                    yield event
        finally:
            self.request.cancel()

    def _begin(self) -> Iterator[dict[str, Any]]:
        for index in range(self._call.n):
            opening = self.objects.opening(index)
            if opening is not None:
                yield self.objects.event([opening], None, False)

    def _more(self, piece: Piece) -> Iterator[dict[str, Any]]:
        self._new += len(piece.ids)
        self._reasoning += piece.reasoning_tokens
        if piece.timings is not None and piece.index == 0:
            self.timings = piece.timings.to_dict()
        part: Part = merged([(piece.index, piece)])[piece.index]
        for choice in self.objects.piece(piece.index, part):
            yield self.objects.event([choice], None, False)

    # ---- what is counted ----------------------------------------------------------------------------------------

    def used(self) -> dict[str, Any]:
        """The numbers of tokens so far."""
        request, stats = self.request, self.request.stats
        # Of n completions, all but the first find the prompt computed; that does not count as cached.
        cached = max(stats.cached - (self._call.n - 1) * (request.prompt_tokens - 1), 0)
        return usage(request.prompt_tokens, self._new, cached, self._reasoning, stats.drafted, stats.accepted)
