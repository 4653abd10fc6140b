"""Hostile templates and messages: they soon raise one of Pellucid's errors, and read nothing."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
import time
import weakref
from typing import Any

import pytest

from pellucid.errors import ChatTemplateError, TokenizerError
from pellucid.text import budget, chat
from pellucid.text.chat import ChatTemplate

from . import hostile
from .conversations import TOKENS, TOOLS, templates

NAMED_TOOLS = [{"name": "f", "description": "x", "parameter_definitions": {}, "parameters": {"properties": {}}}]
USER = [{"role": "user", "content": "hi"}]
CASES = [
    pytest.param(source, id=f"{group.lower()}: {name}")
    for group in ("FOREVER", "GROWING", "FORBIDDEN", "BROKEN")
    for name, source in getattr(hostile, group).items()
]


@pytest.mark.parametrize("source", CASES)
def test_ends_in_an_error_by_what_it_does(source: str) -> None:
    """The error depends on the number of steps, on machines of any speed, and never on the clock."""
    with pytest.raises(ChatTemplateError) as caught:
        ChatTemplate(source).render(USER)
    message = str(caught.value)
    assert "runs too long" not in message
    assert "\n" not in message and len(message) < 700 and "0x" not in message


def test_memory_stays_bounded() -> None:
    """All of them run in a separate process, which never grows by more than the limit of one rendering."""
    code = """
from pellucid.errors import ChatTemplateError
from pellucid.text.chat import ChatTemplate
from tests.peak import peak
from tests.text import hostile
ChatTemplate("{{ 1 }}").render([{"role": "user", "content": "hi"}])
before = peak()
names = "sorting again and again", "lazy filters over lazy filters", "splitting long texts"
names += "a table of very many arguments", "a macro's very many arguments"
for source in [*hostile.GROWING.values(), *(hostile.FOREVER[name] for name in names)]:
    try:
        ChatTemplate(source).render([{"role": "user", "content": "hi"}])
    except ChatTemplateError:
        pass
print((peak() - before) >> 10)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 300  # MB


class Clock:
    """The thread's clock, of a machine that is ten times slower."""

    @staticmethod
    def thread_time() -> float:
        return 10 * time.thread_time()


def test_the_clock_is_a_backstop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget, "SECONDS", 0.05)
    with pytest.raises(ChatTemplateError, match=r"runs too long.* \(line 1 of the template\)"):
        ChatTemplate(hostile.FOREVER["nested loops"]).render(USER)


def conversation(count: int, words: str, parts: bool) -> list[dict[str, Any]]:
    """A conversation of ``count`` messages, the last one from the user."""
    content: Any = [{"type": "text", "text": words}] if parts else words
    turns = [{"role": "user", "content": content}, {"role": "assistant", "content": content}]
    return [*turns * (count // 2), {"role": "user", "content": content}]


@pytest.mark.parametrize("name", templates())
def test_long_conversations_pass_on_a_slow_machine(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """10,000 short messages use at most half of a template's budget, for each published template."""
    monkeypatch.setattr(budget, "time", Clock)
    budgets: list[Any] = []

    class Kept(budget.Budget):
        def __init__(self, *given: Any) -> None:
            super().__init__(*given)
            budgets.append(self)

    monkeypatch.setattr(chat, "Budget", Kept)
    template = ChatTemplate(templates()[name], TOKENS)
    for tools, parts in ((None, False), (TOOLS, False), (None, True), (NAMED_TOOLS, False)):
        try:
            template.render(conversation(2, "ok", parts), tools=tools)
            break
        except ChatTemplateError:
            continue
    text, _ = template.render(conversation(10_000, "ok", parts), tools=tools)
    assert text.count("ok") >= 5000
    assert budgets[-1].left > budgets[-1]._units / 2


def test_off_the_main_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several at once, each with its own budget; a harmless one next to them is not affected."""
    monkeypatch.setattr(budget, "SECONDS", 0.1)
    seen: dict[str, Any] = {}
    harmless = ChatTemplate("{% for m in messages %}{{ m.content }}{% endfor %}")
    endless = ChatTemplate(hostile.FOREVER["nested loops"])

    def run(name: str, template: ChatTemplate) -> None:
        try:
            seen[name] = template.render(USER)[0]
        except ChatTemplateError as error:
            seen[name] = error.message

    threads = [threading.Thread(target=run, args=(f"{i}", endless if i % 2 else harmless)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen["0"] == seen["2"] == "hi"
    assert all("the chat template" in seen[name] for name in ("1", "3"))


def test_a_template_is_as_good_as_new_after_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget, "SECONDS", 0.1)
    template = ChatTemplate("{% if messages[0].content == 'loop' %}" + hostile.NESTED + "{% endif %}fine")
    for content, fine in (("a", True), ("loop", False), ("a", True)):
        if fine:
            assert template.render([{"role": "user", "content": content}])[0] == "fine"
        else:
            with pytest.raises(ChatTemplateError):
                template.render([{"role": "user", "content": content}])


def test_long_conversations_are_no_attack() -> None:
    """The limits grow with the input: a million characters, and templates that look at all messages for each one."""
    messages = [{"role": "user", "content": "x" * 1000} for _ in range(1000)]
    source = (
        "{% set ns = namespace(n=0, all=[]) %}{% for m in messages %}{% set ns.all = ns.all + [m] %}"
        "{% set ns.n = ns.n + (messages[loop.index0:]|length) %}{{ '<' + m.role + '>' + m.content|trim + '\\n' }}"
        "{% endfor %}{{ ns.n }} {{ ns.all|length }}"
    )
    text, _ = ChatTemplate(source).render(messages)
    assert text.endswith("500500 1000") and len(text) > 1_000_000


def test_filters_stay_lazy() -> None:
    source = "{% set a = messages|map(attribute='content') %}{% set b = a|map('upper') %}{{ a|join }}{{ b|join }}"
    assert ChatTemplate(source).render(USER)[0] == "hi"


LAZY = ("ns.x|select", "[1]|map('default', ns.x)", "[1]|map('default', default_value=ns.x)")


@pytest.mark.parametrize("filter", LAZY)
def test_lazy_filters_do_not_overflow_the_stack(filter: str) -> None:
    """Python frees a chain of generators recursively, without a limit."""
    source = "{% set ns = namespace(x=[]) %}{% for a in range(100) %}{% set ns.x = " + filter + " %}{% endfor %}"
    with pytest.raises(ChatTemplateError, match="over each other more than 60 deep"):
        ChatTemplate(source).render(USER)


def test_marking_a_long_conversation_takes_none_of_the_template_s_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget, "SECONDS", 0.05)
    template = ChatTemplate("{% for m in messages %}{{ m.content }}{% endfor %}", specials=["<|end|>"])
    choose = template._marks.choose

    def slowly(*given: Any) -> dict[str, str]:
        start = time.thread_time()
        while time.thread_time() - start < 0.2:
            pass
        return choose(*given)

    monkeypatch.setattr(template._marks, "choose", slowly)
    text, back = template.render([{"role": "user", "content": "<|end|>"}])
    assert text.translate(back) == "<|end|>"


def test_marking_reads_a_message_once_however_many_texts_the_template_names(monkeypatch: pytest.MonkeyPatch) -> None:
    names = "".join(f"{{% if '<{'a' * n}>' in c %}}{n} {{% endif %}}" for n in range(1, 60))
    template = ChatTemplate("{% set c = messages[0].content %}" + names + "{{ c|length }}", specials=["<|end|>"])

    class Counted(str):
        def __getitem__(self, key: Any) -> Any:
            reads.append(key)
            return str(self)[key]

    reads: list[Any] = []
    at = template._marks._spots(Counted("<" * 2000))
    assert at == list(range(2000)) and len(reads) <= 3 * 2000
    text = template.render([{"role": "user", "content": "<aaa><aaaa<a>"}])[0]
    assert text == "1 3 13"


@pytest.mark.parametrize(
    ("source", "line", "words"),
    [
        ("a\n{% for x in %}", 2, "broken"),
        ("a\n\n{{ raise_exception('no ' ~ 'system') }}", 3, "refuses the conversation: no system"),
        ("{{ raise_exception('\x1b]0;x\x07\x9b2J') }}", 1, r"conversation: \x1b]0;x\x07\x9b2J"),
        ("{% macro f(x) %}\n{{ x.__class__ }}\n{% endmacro %}\n\n{{ f('') }}", 2, "forbidden"),
        ("\n{% for m in messages %}\n{{ m.content + 1 }}{% endfor %}", 3, "TypeError"),
    ],
)
def test_errors_say_where(source: str, line: int, words: str) -> None:
    with pytest.raises(ChatTemplateError) as caught:
        ChatTemplate(source).render(USER)
    assert caught.value.line == line
    assert words in caught.value.message


def deep(n: int) -> Any:
    value: Any = "x"
    for _ in range(n):
        value = [value]
    return value


ROUND: dict[str, Any] = {"role": "user", "content": "x"}
ROUND["self"] = ROUND


@pytest.mark.parametrize(
    ("messages", "kind", "words"),
    [
        (None, TypeError, "messages must be a list of dicts, not NoneType"),
        ("hi", TypeError, "messages must be a list of dicts, not str"),
        ({"role": "user"}, TypeError, "messages must be a list of dicts, not dict"),
        ([], ValueError, "messages is empty"),
        (["hi"], TypeError, "messages[0] must be a dict"),
        ([{"content": "x"}], ValueError, 'messages[0]: no "role"'),
        ([*USER, {"role": "user"}], ValueError, 'messages[1]: no "content"'),
        ([{"role": "user", "content": None}], ValueError, 'messages[0]: no "content"'),
        ([{"role": 1, "content": "x"}], TypeError, 'messages[0]["role"] must be text, not int'),
        ([{"role": "user", "content": 1}],
         TypeError, 'messages[0]["content"] must be text or a list of parts, not int'),
        ([{"role": "user", "content": b"x"}], TypeError, "messages[0]['content'] must be text, a number"),
        ([{"role": "user", "content": {"a": 1}}], TypeError, 'messages[0]["content"] must be text or a list of parts'),
        ([{"role": "user", "content": ["x"]}], TypeError, 'messages[0]["content"][0] must be a dict'),
        ([{"role": "user", "content": [{"type": "text"}]}],
         TypeError, 'messages[0]["content"][0]["text"] must be text'),
        ([{"role": "user", "content": [{"type": "image"}]}], ValueError, "is 'image'; only \"text\" is supported"),
        ([{"role": "user", "content": "x", "more": object()}], TypeError, "messages[0]['more'] must be text"),
        ([{"role": "user", "content": "x", 1: 2}], TypeError, "messages[0]: key 1 must be text, not int"),
        ([{"role": "user", "content": "ab\ud800"}],
         ValueError, "messages[0]['content']: lone surrogate U+D800 (at position 2)"),
        ([{"role": "user", "content": "x", "\udfff": 1}], ValueError, "messages[0]: a key: lone surrogate U+DFFF"),
        ([{"role": "user", "content": "x", "a": deep(100)}], ValueError, "nested more than 60 deep"),
        ([ROUND], ValueError, "nested more than 60 deep"),
    ],
)  # fmt: skip
def test_messages_that_are_none(messages: Any, kind: type[Exception], words: str) -> None:
    with pytest.raises(kind) as caught:
        ChatTemplate("{{ messages }}").render(messages)
    assert words in str(caught.value)


def test_a_lone_surrogate_is_a_tokenizer_error_too() -> None:
    with pytest.raises(TokenizerError) as caught:
        ChatTemplate("").render([{"role": "user", "content": "ab\udc00"}])
    assert caught.value.position == 2


@pytest.mark.parametrize(
    ("arguments", "kind", "words"),
    [
        ({"tools": "x"}, TypeError, "tools must be a list of dicts, not str"),
        ({"tools": [print]}, TypeError, "tools[0] must be a dict"),
        ({"tools": [{"a": "\ud800"}]}, ValueError, "tools[0]['a']: lone surrogate"),
        ({"documents": [1]}, TypeError, "documents[0] must be a dict"),
        ({"variables": [1]}, TypeError, "variables must be a dict"),
        ({"variables": {"a b": 1}}, ValueError, "'a b' is not a name"),
        ({"variables": {"messages": 1}}, ValueError, '"messages" is an argument'),
        ({"variables": {"a": print}}, TypeError, "variables['a'] must be text"),
    ],
)
def test_arguments_that_are_none(arguments: dict[str, Any], kind: type[Exception], words: str) -> None:
    with pytest.raises(kind) as caught:
        ChatTemplate("").render(USER, **arguments)
    assert words in str(caught.value)


def test_messages_are_not_changed() -> None:
    given = [{"role": "user", "content": [{"type": "text", "text": "<|im_end|>"}], "thinking": "x"}]
    before = repr(given)
    ChatTemplate("{{ messages[0].content }}", specials=("<|im_end|>",)).render(given)
    assert repr(given) == before


def test_marks_are_found_in_time() -> None:
    """Thousands of special tokens, a template with thousands of texts, and messages full of the beginnings of both."""
    specials = [f"<unused{i}>" for i in range(6000)] + [f"token{i}" for i in range(2000)]
    named = "{{ '" + "'|trim }}{{ '".join("<" * 60 + f"{i}" for i in range(600)) + "' }}"
    start = time.thread_time()
    template = ChatTemplate(named + "{{ messages[0].content }}", specials=specials)
    text, back = template.render([{"role": "user", "content": "<unused1>" * 20_000 + "token7"}])
    assert text.translate(back).endswith("<unused1>token7")
    assert not any(special in text for special in specials)
    assert time.thread_time() - start < 2


WRITES_PARTS = """{% for m in messages %}{% if m.role == 'odd' %}{% for i in range(99999) %}{% for j in range(999) %}
{%- endfor %}{% endfor %}{% endif %}{{ m.role }}: {% if m.content is string %}{{ m.content }}{% else %}
{%- for p in m.content %}({{ p.text }}){% endfor %}{% endif %};{% endfor %}"""
PARTS = [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}]


def test_roles_that_a_client_makes_up_are_not_all_kept() -> None:
    template = ChatTemplate(WRITES_PARTS)
    template.render([{"role": f"role {i}", "content": "x"} for i in range(500)])
    template.render([{"role": "r" * 100_000, "content": "x"}])
    assert sum(len(role) for role, _ in template._taken) < 10_000


def test_a_conversation_that_uses_up_the_budget_changes_no_other() -> None:
    template = ChatTemplate(WRITES_PARTS)
    expected = "user: (a)(b);"
    with pytest.raises(ChatTemplateError, match="does too much"):
        template.render([{"role": "odd", "content": "x"}, *PARTS])
    assert template.render(PARTS)[0] == expected == ChatTemplate(WRITES_PARTS).render(PARTS)[0]


@pytest.mark.parametrize("error", [MemoryError, RecursionError])
def test_what_failed_by_chance_is_tried_again(error: type[Exception], monkeypatch: pytest.MonkeyPatch) -> None:
    template = ChatTemplate(WRITES_PARTS)
    takes = ChatTemplate._takes

    def short(*args: Any) -> bool:
        with monkeypatch.context() as now:
            now.setattr(template._sandbox, "tick", raising(error))
            return takes(template, *args)

    with monkeypatch.context() as once:
        once.setattr(template, "_takes", short)
        assert template.render(PARTS)[0] == "user: a\nb;"
    assert template.render(PARTS)[0] == "user: (a)(b);"


def raising(error: type[Exception]) -> Any:
    def fail(*_: Any) -> Any:
        raise error

    return fail


@pytest.mark.parametrize("fails", [False, True])
def test_no_conversation_is_kept(fails: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread that rendered one does not keep it until it renders another."""
    made: list[weakref.ref[budget.Budget]] = []

    class Watched(budget.Budget):  # which holds what is rendered
        def __init__(self, given: int) -> None:
            super().__init__(given)
            made.append(weakref.ref(self))

    monkeypatch.setattr(chat, "Budget", Watched)
    template = ChatTemplate("{{ messages[0].content }}{% if fails %}{{ raise_exception('no') }}{% endif %}")
    with contextlib.suppress(ChatTemplateError):
        template.render(USER, variables={"fails": fails})
    assert len(made) == 2 and not any(one() for one in made)
