"""What an answer in a conversation is bound to, and when: tool calls, a schema of its content, a reasoning budget."""

from __future__ import annotations

import re
from collections.abc import Sequence, Set
from typing import TYPE_CHECKING

import numpy as np

from pellucid.bound import Decided
from pellucid.core import Core
from pellucid.errors import GrammarError
from pellucid.reply import Reply, Tool
from pellucid.structure import Structure
from pellucid.text.dialects import spaced
from pellucid.text.dialects.lark import calls_grammar
from pellucid.text.grammar import Grammar, Matcher, NoGrammarsError
from pellucid.text.stream import spell_out

if TYPE_CHECKING:
    from typing import Self

__all__ = ["Guide"]

_WHERE = re.compile(r"at \d+\(\d+\): (failed to compile JSON schema: )?")  # in the grammar of calls
KEPT = 256  # bytes at the end of the text in which tags are looked for


class Guide(Decided):
    """The tokens of an answer, parts of which are bound:

    - Reasoning is free. If it has a budget, its closing tag follows after so many tokens.
    - Content is free until a call begins; the rest of the call is bound to the tools' schemas. Or all content is bound:
      to calls if a tool must be called; else to the structure of the text, or calls if tools may be called.

    ends, may_end, scored: see ``Decided``. Raises GrammarError if a schema cannot be enforced.
    """

    def __init__(
        self, core: Core, reply: Reply, structure: Structure | None, ends: Set[int], may_end: bool, scored: bool
    ) -> None:
        self._core, self._reply = core, reply
        size = core.engine.vocab
        self._free = np.full((size + 31) // 32, 0xFFFFFFFF, np.uint32)
        if size & 31:
            self._free[-1] = (1 << (size & 31)) - 1
        super().__init__(self._free.copy(), ends, may_end, scored)
        self._structure = structure
        self._content = self._whole()
        self._rests = self._after_triggers()
        self._begin()
        self._go_on([])

    @property
    def warnings(self) -> tuple[str, ...]:
        """Keywords of schemas that are ignored."""
        grammars = [*self._rests.values(), *([] if self._content is None else [self._content])]
        return tuple(dict.fromkeys(text for one in grammars for text in one.warnings))

    # ---- grammars ------------------------------------------------------------------------------------------------

    def _compile(self, structure: Structure) -> Grammar:
        return self._core.need_tokenizer().grammars(self._core.engine.vocab).compile(structure)

    def _bind(self, trigger: str = "") -> Grammar:
        """The grammar of calls. Raises GrammarError naming the tool."""
        asked = self._reply.asked
        found = self._tried(trigger, asked.callable)
        if not isinstance(found, GrammarError):
            return found
        some = asked.callable
        while len(some) > 1:  # by halves, since compiling each alone could take a minute
            half = some[: len(some) // 2]
            some = half if isinstance(self._tried(trigger, half), GrammarError) else some[len(half) :]
        one = self._tried(trigger, some)
        if isinstance(one, GrammarError):
            raise _of_tools(one, f"tools[{(asked.tools or ()).index(some[0])}]")
        raise _of_tools(found, "tools")

    def _tried(self, trigger: str, tools: Sequence[Tool]) -> Grammar | GrammarError:
        """The grammar of calls of some tools, or why there is none."""
        try:
            return self._compile(Structure("grammar", self._calls(trigger, tools=tools)))
        except GrammarError as error:
            return error

    def _calls(self, trigger: str = "", content: str | None = None, tools: Sequence[Tool] | None = None) -> str:
        reply, asked = self._reply, self._reply.asked
        tools = asked.callable if tools is None else tools
        return calls_grammar(
            reply.dialect,
            [(one.name, one.schema, one.strict) for one in tools],
            reply.specials,
            ends=self._core.need_tokenizer().eog,
            trigger=trigger,
            several=asked.parallel,
            content=content,
        )

    def _whole(self) -> Grammar | None:
        """What binds all of the content."""
        asked, structure = self._reply.asked, self._structure
        if structure is None and (asked.tools is None or asked.choice == "auto"):
            return None
        calls = None if asked.tools is None else self._bind()
        if structure is None or (calls is not None and asked.choice != "auto"):
            return calls
        content = self._compile(structure)  # alone first, like the calls, so that an error is about one of them
        if calls is None:
            return content
        thinking = self._reply.thinking
        header = self._answer().removeprefix(self._joint()) if thinking is not None and thinking.always else ""
        return self._compile(structure._replace(calls=self._calls(content=header)))

    def _after_triggers(self) -> dict[re.Pattern[bytes], Grammar]:
        """What binds the rest of a call, by the text that begins it. If llguidance is missing, calls are free."""
        asked, dialect = self._reply.asked, self._reply.dialect
        if asked.tools is None or self._content is not None:
            return {}
        try:
            return {spaced(one.encode()): self._bind(one) for one in dialect.triggers}
        except NoGrammarsError:
            return {}

    # ---- what is bound -------------------------------------------------------------------------------------------

    def _begin(self) -> None:
        """The state before the first token."""
        reply = self._reply
        self._matcher: Matcher | None = None
        self._pending: list[int] = []  # tokens that follow
        self._tail = b""
        self._reasoned = 0
        self._said = False  # there is content other than white space
        self._thinking = reply.begun
        self._opens: int | None = None  # the token that begins reasoning, if it may replace bound content
        thinking = reply.thinking
        if self._thinking:
            self._limit()
        elif self._content is not None and thinking is not None and not reply.thought:
            if thinking.always:
                self._pending = self._spell(thinking.opens)
                self._thinking = True
            else:
                opens = self._spell(thinking.opens)
                self._opens = opens[0] if len(opens) == 1 else None
                self._matcher = self._content.matcher()
        elif self._content is not None:
            self._matcher = self._content.matcher()

    def _step(self, token: int) -> None:
        """Takes a token."""
        if self._pending:
            del self._pending[0]
        first, self._opens = self._opens, None
        if self._matcher is not None and token == first:
            self._matcher, self._thinking = None, True
            self._limit()
            return
        if self._matcher is not None:
            self._matcher.advance([token])
            if self._matcher.complete:
                self._called()
            return
        thinking = self._reply.thinking
        self._tail = (self._tail + self._reply.piece(token))[-KEPT:]
        if self._thinking and thinking is not None:
            self._reasoned += 1
            if thinking.closes.encode() in self._tail and not self._pending:
                self._stop_thinking()
            elif not self._pending and not self._broken_off():
                self._limit()
        elif thinking is not None and self._opened(thinking.opens, thinking.anywhere):
            self._thinking, self._tail = True, b""
            self._limit()
        else:
            self._look_for_calls()

    def _opened(self, tag: str, anywhere: bool) -> bool:
        """Whether reasoning begins here."""
        mark = tag.encode()
        if anywhere:
            return self._tail.endswith(mark)
        return not (self._said or self._reasoned) and self._tail.lstrip().startswith(mark)

    def _limit(self) -> None:
        """Ends reasoning that has used up its budget."""
        thinking, budget = self._reply.thinking, self._reply.asked.budget
        if thinking is not None and budget is not None and self._reasoned >= budget:
            closing = thinking.closes if self._content is not None and thinking.always else thinking.closing
            self._pending = self._spell(closing)

    def _stop_thinking(self) -> None:
        thinking = self._reply.thinking
        self._thinking, self._tail = False, b""
        if self._content is not None:
            if thinking is not None and thinking.always:
                self._pending = self._spell(self._answer() if self._reply.asked.tools is None else self._joint())
            else:
                self._matcher = self._content.matcher()

    def _broken_off(self) -> bool:
        """Whether a call begins within reasoning, and so ends it."""
        reply = self._reply
        ends = reply.dialect.ends_thinking if reply.asked.tools is not None else ()
        at = min((i for tag in ends if (i := self._tail.find(tag.encode())) >= 0), default=-1)
        if at < 0:
            return False
        self._thinking, self._tail = False, self._tail[at:]
        if self._content is None:
            self._look_for_calls()
        elif not self._enter(self._content.matcher(), self._tail):
            self._matcher = self._content.matcher()
        return True

    def _answer(self) -> str:
        """What begins the answer, after reasoning that is a message of its own."""
        thinking = self._reply.thinking
        return "" if thinking is None else thinking.closing.removeprefix(thinking.closes)

    def _joint(self) -> str:
        """What begins another call."""
        return "".join(self._reply.dialect.joint)

    def _look_for_calls(self) -> None:
        """Binds what follows the beginning of a call."""
        if self._content is not None and not self._pending:  # the header of a message came between
            self._matcher = self._content.matcher()
            return
        for trigger, grammar in self._rests.items():
            for found in trigger.finditer(self._tail):
                if not self._reply.dialect.may_call(self._tail[: found.start()], self._said):
                    continue
                if self._enter(grammar.matcher(), self._tail[found.end() :]):
                    return
        if len(self._tail.strip()) > 64:
            self._said = True

    def _enter(self, matcher: Matcher, rest: bytes) -> bool:
        """Binds the rest of a call, part of which is already written -> whether it can be one."""
        try:
            matcher.advance(self._spell(rest.decode()))
        except (GrammarError, UnicodeDecodeError):
            return False
        self._tail = b""
        if matcher.complete:
            self._called()
        else:
            self._matcher = matcher
        return True

    def _called(self) -> None:
        """A call, or all content that is bound, is complete."""
        if self._content is not None or not self._reply.asked.parallel:
            self.complete = True
        self._matcher, self._tail = None, b""
        self._said = not self._reply.dialect.trigger_first  # if a call must come first, another may follow it

    def _spell(self, text: str) -> list[int]:
        """The tokens of a text that may hold tags."""
        ids: list[int] = []
        rest = text
        specials = self._reply.specials
        while rest:
            found = [(i, tag) for tag in specials if (i := rest.find(tag)) >= 0]
            at, tag = min(found, default=(len(rest), ""))
            if at:
                plain = self._core.need_tokenizer()
                ids += spell_out(plain, rest[:at]) or plain.encode(rest[:at], add_special=False)
            if tag:
                ids.append(specials[tag])
            rest = rest[at + len(tag) :]
        return ids

    # ---- what is decided -----------------------------------------------------------------------------------------

    def _again(self) -> None:
        self.complete = False
        self._begin()
        for token in self.ids:
            self._step(token)

    def _take(self, token: int) -> None:
        self._step(token)
        self._go_on([token])

    def _go_on(self, ids: list[int]) -> None:
        """Adds tokens that were taken, and those that must follow."""
        while not self.complete and (more := self._forced()):
            for token in more:
                self._step(token)
            ids = ids + more
        self.ids += ids

    def _forced(self) -> list[int]:
        if self._pending:
            return list(self._pending)
        return self._matcher.forced() if self._matcher is not None and self._opens is None else []

    def fork(self) -> Self:
        twin = super().fork()
        twin._pending = list(self._pending)
        twin._matcher = None if self._matcher is None else self._matcher.fork()
        return twin

    def fill(self) -> None:
        if self._matcher is None:
            self.words[:] = self._free
            return
        try:
            self._matcher.mask(self.words, self._may_end)
            if self._opens is not None:
                self.words[self._opens >> 5] |= np.uint32(1 << (self._opens & 31))
        except GrammarError as error:
            self.failure = error if self._structure is not None else _of_tools(error, "tools")
            self.words[:] = 0

    def blame(self, error: Exception) -> Exception:
        """The error to raise for a pass in which there was no token to draw."""
        if self.failure is None and self._matcher is not None and type(error) is ValueError:
            text = "it, the penalties and logit_bias together leave no token to draw"
            return GrammarError(text, place="tools")
        return self.failure or error


def _of_tools(error: GrammarError, place: str) -> GrammarError:
    """The error of a grammar of calls, which the caller has not seen. place: the tools from which it was made."""
    return GrammarError(_WHERE.sub("", error.message), place=place)
