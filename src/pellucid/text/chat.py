"""Conversations converted to text and ids, by the chat template of a model file.

messages -> checked copies, marked (:mod:`~pellucid.text.conversation`) -> the template
(:mod:`~pellucid.text.sandbox`) -> text whose special tokens are the template's own -> ids.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from pellucid.checks import flag
from pellucid.errors import ChatTemplateError, one_line
from pellucid.text.budget import Budget
from pellucid.text.conversation import Marks, Reader, read_messages, read_tables
from pellucid.text.dialects import find
from pellucid.text.dialects.messages import Writer, by_chance
from pellucid.text.turns import turns
from pellucid.text.vocabulary import quoted

if TYPE_CHECKING:
    from pellucid.text import MarkedTokenizer, TextTokenizer

__all__ = ["MOST_SOURCE", "Chat", "ChatPrompt", "ChatTemplate", "ToolChat"]

MOST_SOURCE = 1 << 16  # characters of a template; the longest published ones have 20,000 and compile in 1 s
MOST_MESSAGE = 500  # characters of an error's text
MOST_ROLES = 64  # that are remembered, and their characters
MOST_OPENING = 1 << 18  # of an opening whose ids are cached


class ChatPrompt(NamedTuple):
    """A rendered conversation: its text, special tokens spelled out, and its ids."""

    text: str
    ids: list[int]

    def __repr__(self) -> str:
        return f"<ChatPrompt {one_line(repr(self.text), 60)}: {len(self.ids)} tokens>"


class ChatTemplate:
    """A compiled template, safe to share between threads.

    ``source``: Jinja, with everything that transformers provides to templates except ``cycler`` and filters that are
    meant for web pages or vary between calls (``pprint``, ``random``, ``striptags``, ``urlencode``, ``urlize``,
    ``xmlattr``, ``forceescape``).
    ``tokens``: ``{"bos_token": "<s>", ...}``. ``specials``: spellings of special tokens, which are ordinary text in a
    message.

    Raises ``ChatTemplateError``, with the line, if the source is broken, too long or too deeply nested.
    """

    def __init__(self, source: str, tokens: Mapping[str, str] = {}, specials: Sequence[str] = ()) -> None:
        if not isinstance(source, str):
            raise TypeError(f"template must be text, not {type(source).__name__}")
        if len(source) > MOST_SOURCE:
            raise ChatTemplateError(f"the chat template has {len(source)} characters; expected at most {MOST_SOURCE}")
        from jinja2 import Template, nodes

        from pellucid.text.sandbox import Sandbox

        self.source = source
        self._tokens = dict(tokens)
        self._sandbox = Sandbox()
        self._template: Template | None = None
        with self._failing():
            tree = self._sandbox.parse(source)
            literals = {node.value for node in tree.find_all(nodes.Const) if isinstance(node.value, str)}
            self._marks = Marks(specials, literals, [source, *self._tokens.values()])
            code = self._sandbox.compile(tree)
            self._template = Template.from_code(self._sandbox, code, self._sandbox.make_globals(None))
        self._taken: dict[tuple[str, bool], bool] = {}
        self._lock = threading.Lock()

    def render(
        self,
        messages: Any,
        *,
        tools: Any = None,
        documents: Any = None,
        add_generation_prompt: bool = True,
        variables: Mapping[str, Any] | None = None,
        name: str = "messages",
    ) -> tuple[str, dict[int, str]]:
        """-> (text with stand-ins for some characters of the messages, the table for ``str.translate`` that restores
        them).

        messages: dicts with "role" and "content" (text, or a list of ``{"type": "text", "text": ...}``), and anything
            else that the template reads: "tool_calls", "name", "reasoning_content" ...
        tools: dicts, JSON schemas as a rule. documents: dicts. variables: further values for the template. name: of
            `messages`, for errors.

        Raises ``ChatTemplateError`` if the template fails or refuses the conversation, and ``TypeError`` or
        ``ValueError``, naming the place, for a wrong argument.
        """
        reader = Reader()
        conversation = read_messages(messages, reader, name)
        tables = {name: read_tables(name, v, reader) for name, v in (("tools", tools), ("documents", documents))}
        extra = _variables(variables, reader)

        self._fit_contents(conversation, Budget(reader.size))
        table = self._marks.choose(conversation, [*tables.values()], extra)
        if table:
            conversation = self._marks.messages(conversation, table)
            tables = {name: self._marks.apply(value, table) for name, value in tables.items()}
        budget = Budget(reader.size)
        budget.kept = frozenset(table.values())
        values = {
            **self._tokens,
            **tables,
            "messages": conversation,
            "add_generation_prompt": flag("add_generation_prompt", add_generation_prompt),
            **extra,
        }
        budget.know(values)
        return self._run(values, budget), {ord(mark): character for character, mark in table.items()}

    def _run(self, values: dict[str, Any], budget: Budget) -> str:
        template = self._template
        assert template is not None
        self._sandbox.use(budget)
        parts: list[str] = []
        try:
            with self._failing():
                size = 0
                for part in template.root_render_func(template.new_context(values)):
                    size += len(part)
                    budget.room(size)
                    parts.append(part)
                return "".join(parts)
        finally:
            self._sandbox.use(None)  # it holds the conversation
        raise AssertionError

    def _fit_contents(self, conversation: list[dict[str, Any]], budget: Budget) -> None:
        """Joins a list of parts into one text if the template does not accept lists for that role; turns a text into a
        list with one part if it accepts only lists, as templates of models with images do."""
        for message in conversation:
            role, content = message["role"], message.get("content")
            if isinstance(content, list) and not self._takes(role, True, budget):
                message["content"] = "\n".join(part["text"] for part in content)
            elif isinstance(content, str) and not self._takes(role, False, budget) and self._takes(role, True, budget):
                message["content"] = [{"type": "text", "text": content}]

    def _takes(self, role: str, parts: bool, budget: Budget) -> bool:
        """Whether the template writes the text of parts (or plain text) for a role; found by trying, since templates do
        not declare it."""
        with self._lock:
            known = self._taken.get((role, parts))
        if known is None:
            probe = "pellucid probe"
            asked = {"role": role, "content": [{"type": "text", "text": probe}] if parts else probe}
            user = {"role": "user", "content": "x"}
            chat = {"system": [asked, user], "user": [asked]}.get(role, [user, asked])
            try:
                text = self._run({**self._tokens, "messages": chat, "tools": None, "documents": None}, budget)
                known = probe in text and not any(f"{q}type{q}" in text for q in "'\"")
                lasts = True
            except ChatTemplateError as error:
                known, lasts = False, not (budget.spent or by_chance(error))
            if lasts and len(role) <= MOST_ROLES:  # a client may make up any number of roles
                with self._lock:
                    if len(self._taken) >= MOST_ROLES:
                        self._taken.clear()
                    self._taken[role, parts] = known
        return known

    @contextmanager
    def _failing(self) -> Iterator[None]:
        """Turns every failure of a template into a ``ChatTemplateError`` with its line."""
        from jinja2.exceptions import SecurityError, TemplateRuntimeError, TemplateSyntaxError

        try:
            yield
        except ChatTemplateError as error:
            raise ChatTemplateError(error.message, line=error.line or self._line(error)) from None
        except TemplateSyntaxError as error:
            message = f"the chat template is broken: {_cut(error.message)}"
            raise ChatTemplateError(message, line=error.lineno) from None
        except SecurityError as error:
            message = f"the chat template accesses something forbidden: {_cut(error)}"
            raise ChatTemplateError(message, line=self._line(error)) from None
        except RecursionError as error:
            raise ChatTemplateError("the chat template is nested too deeply", line=self._line(error)) from None
        except MemoryError as error:
            raise ChatTemplateError("the chat template needs too much memory", line=self._line(error)) from None
        except Exception as error:
            message = _cut(error)
            if not (isinstance(error, TemplateRuntimeError) and message.startswith("the chat template refuses")):
                message = f"the chat template failed: {type(error).__name__}: {message}"
            raise ChatTemplateError(message, line=self._line(error)) from None

    def _line(self, error: BaseException) -> int | None:
        """The innermost line of the template that the error came from."""
        found, trace = None, error.__traceback__
        while trace is not None:
            if trace.tb_frame.f_globals.get("environment") is self._sandbox and self._template is not None:
                found = self._template.get_corresponding_lineno(trace.tb_lineno)
            trace = trace.tb_next
        return found


class NoTemplateError(ChatTemplateError):
    """The model has no chat template, and none is given."""


class BrokenTemplateError(ChatTemplateError):
    """The model's own chat template is broken, and no other is given."""


class Chat:
    """Writes conversations for one tokenizer. ``source``: the template; by default the tokenizer's own. ``names``:
    further special tokens that the template can refer to by name. ``for_tools``: it is for conversations with tools.

    Raises ``ChatTemplateError`` if there is none, or if it is broken.
    """

    def __init__(
        self,
        tokenizer: TextTokenizer,
        source: str | None = None,
        names: Mapping[str, str | None] = {},
        *,
        for_tools: bool = False,
    ) -> None:
        own = source is None
        source = tokenizer.chat_template if source is None else source
        if source is None:
            raise NoTemplateError(
                "the model file has no chat template: give one, in Jinja, with the option template (--template FILE)"
            )
        self._tokenizer = tokenizer
        special = self.specials = tokenizer.special  # tokens by their spellings
        try:
            self.template = ChatTemplate(source, special_names(tokenizer, names), tuple(special))
        except ChatTemplateError as error:
            raise BrokenTemplateError(error.message, line=error.line) if own else error from None
        self._writer = Writer(self.template, find(source), tuple(special), for_tools=for_tools)
        self._known_ids = lru_cache(8)(partial(_ids, tokenizer))

    def of(self, tools: Any) -> Chat:
        """The Chat that writes conversations with these tools."""
        return self

    @property
    def source(self) -> str:
        """The template."""
        return self.template.source

    def conversation(self, messages: Any, *, tools: Any = None, name: str = "messages", **options: Any) -> ChatPrompt:
        """As :meth:`prompt`; tools, calls and results that the template does not support are written as text."""
        read_messages(messages, Reader(), name)  # names the place of an error before the messages are changed
        read_tables("tools", tools, Reader())
        prepared = self._writer.prepare(messages, tools, name)
        return self.prompt(prepared.messages, tools=prepared.tools, name=name, tags=prepared.tags, **options)

    def prompt(self, messages: Any, *, tags: Mapping[str, str] = {}, **options: Any) -> ChatPrompt:
        """A conversation's text and ids. Options and errors: :meth:`ChatTemplate.render`; ``TokenizerError`` for text
        that cannot be encoded.

        Special tokens that the template writes become ids; their spellings in a message remain text. BOS comes first if
        the vocabulary specifies it and the template has not written it. tags: characters of messages that stand for
        special tokens.
        """
        marked, back = self._write(messages, tags, options)
        text = marked.translate(back)
        return ChatPrompt(text, _ids(self._tokenizer, marked, text))

    def opening(
        self, prompt: ChatPrompt, messages: Sequence[Mapping[str, Any]], *, tools: Any = None, **options: Any
    ) -> list[int]:
        """The ids of a conversation with the same tools and leading system messages but another user message; none if
        they are very long. messages: as in `prompt`.

        Raises ChatTemplateError if the template rejects such a conversation.
        """
        other = next((c for c in map(chr, range(0xA000, 0xA400)) if c not in prompt.text), "")
        first, _ = turns(messages)
        prepared = self._writer.prepare([*messages[:first], {"role": "user", "content": other}], tools)
        marked, back = self._write(prepared.messages, prepared.tags, {"tools": prepared.tools, **options})
        if len(marked) > MOST_OPENING:
            return []
        return self._known_ids(marked, marked.translate(back))

    def _write(self, messages: Any, tags: Mapping[str, str], options: Mapping[str, Any]) -> tuple[str, dict[int, str]]:
        marked, back = self.template.render(messages, **options)
        return marked.translate({ord(mark): tag for mark, tag in tags.items()}) if tags else marked, back


def _ids(tokenizer: TextTokenizer, marked: str, text: str) -> list[int]:
    if marked == text:
        ids = tokenizer.encode(text, add_special=False, parse_special=True)
    else:
        ids = cast("MarkedTokenizer", tokenizer).encode_marked(text, marked)
    if tokenizer.add_bos and tokenizer.bos is not None and ids[:1] != [tokenizer.bos]:
        ids.insert(0, tokenizer.bos)
    return ids


class ToolChat(Chat):
    """A Chat whose model has a further template, `tools`, for conversations with tools."""

    def __init__(self, tokenizer: TextTokenizer, names: Mapping[str, str | None], tools: str) -> None:
        super().__init__(tokenizer, None, names)
        self._with_tools = _later(lambda: Chat(tokenizer, tools, names, for_tools=True))

    def of(self, tools: Any) -> Chat:
        return self if tools is None or (isinstance(tools, (list, tuple)) and not tools) else self._with_tools()

    def conversation(self, messages: Any, *, tools: Any = None, name: str = "messages", **options: Any) -> ChatPrompt:
        write = super().conversation if (chat := self.of(tools)) is self else chat.conversation
        return write(messages, tools=tools, name=name, **options)

    def prompt(self, messages: Any, *, tags: Mapping[str, str] = {}, **options: Any) -> ChatPrompt:
        write = super().prompt if (chat := self.of(options.get("tools"))) is self else chat.prompt
        return write(messages, tags=tags, **options)

    def opening(
        self, prompt: ChatPrompt, messages: Sequence[Mapping[str, Any]], *, tools: Any = None, **options: Any
    ) -> list[int]:
        write = super().opening if (chat := self.of(tools)) is self else chat.opening
        return write(prompt, messages, tools=tools, **options)


def _later(make: Callable[[], Chat]) -> Callable[[], Chat]:
    """Creates it when it is first needed: it may be broken, and never needed."""

    @lru_cache(1)
    def made() -> Chat:
        try:
            return make()
        except ChatTemplateError as error:
            raise BrokenTemplateError(f"of conversations with tools: {error.message}", line=error.line) from None

    return made


def special_names(tokenizer: TextTokenizer, named: Mapping[str, str | None] = {}) -> dict[str, str]:
    """The spellings that templates know as ``bos_token``, ``eos_token`` and so on, as far as they exist. named:
    spellings from the model's files that override the vocabulary's; None: there is no such token."""
    vocabulary = getattr(tokenizer, "vocabulary", tokenizer)
    ids = {name: getattr(vocabulary, name, None) for name in ("bos", "eos", "unk", "pad")}
    found = {f"{name}_token": tokenizer.spelling(id) for name, id in ids.items() if id is not None}
    every = {**found, **named}
    return {name: spelling for name, spelling in every.items() if spelling is not None}


def _variables(variables: Any, reader: Reader) -> dict[str, Any]:
    if variables is None:
        return {}
    if not isinstance(variables, Mapping):
        raise TypeError(f"variables must be a dict, not {type(variables).__name__}")
    for name in variables:
        if not isinstance(name, str) or not name.isidentifier():
            raise ValueError(f"variables: {quoted(name)} is not a name for a template's variable")
        if name == "messages":
            raise ValueError('variables: "messages" is an argument of its own')
    plain: dict[str, Any] = reader.plain(variables, "variables")
    return plain


def _cut(error: object) -> str:
    text = re.sub(r" at 0x[0-9a-f]+", "", " ".join(str(error).split()))  # Python's messages hold addresses
    return one_line(text, MOST_MESSAGE)
