"""Filters, tests and functions of templates take the same arguments as Jinja's, by position and by name."""

from __future__ import annotations

import inspect
from typing import Any

import jinja2
import pytest
from jinja2.defaults import DEFAULT_FILTERS, DEFAULT_TESTS

from pellucid.text.budget import Budget
from pellucid.text.filters import FILTERS
from pellucid.text.sandbox import Sandbox

ROWS = [{"a": 2, "b": "x"}, {"a": 1, "b": "X"}, {"a": 2, "b": "y"}]
# Filter -> its value, and an argument for each further parameter of Jinja's.
ARGUMENTS: dict[str, tuple[Any, dict[str, Any]]] = {
    "abs": (-3, {}),
    "attr": ("x", {"name": "missing"}),
    "batch": ([1, 2, 3], {"linecount": 2, "fill_with": 0}),
    "capitalize": ("abc", {}),
    "center": ("a", {"width": 9}),
    "count": ([1], {}),
    "d": ("", {"default_value": "x", "boolean": True}),
    "default": ("", {"default_value": "x", "boolean": True}),
    "dictsort": ({"b": 1, "A": 2}, {"case_sensitive": True, "by": "value", "reverse": True}),
    "e": ("<", {}),
    "escape": ("<", {}),
    "filesizeformat": ("123456", {"binary": True}),
    "first": ([1, 2], {}),
    "float": ("x", {"default": 2.5}),
    "format": ("%s", {"args": 3}),
    "groupby": (ROWS, {"attribute": "b", "default": "z", "case_sensitive": True}),
    "indent": ("a\n\nb", {"width": 2, "first": True, "blank": True}),
    "int": ("0x1F", {"default": 7, "base": 16}),
    "items": ({"a": 1}, {}),
    "join": (ROWS, {"d": ", ", "attribute": "b"}),
    "last": ([1, 2], {}),
    "length": ([1, 2], {}),
    "list": ("ab", {}),
    "lower": ("AB", {}),
    "map": (["a"], {"args": "upper"}),
    "max": (ROWS, {"case_sensitive": True, "attribute": "b"}),
    "min": (ROWS, {"case_sensitive": True, "attribute": "b"}),
    "reject": ([1, 2], {"args": "odd"}),
    "rejectattr": (ROWS, {"args": "b"}),
    "replace": ("aaa", {"old": "a", "new": "b", "count": 2}),
    "reverse": ("abc", {}),
    "round": (2.345, {"precision": 1, "method": "ceil"}),
    "safe": ("<", {}),
    "select": ([1, 2], {"args": "odd"}),
    "selectattr": (ROWS, {"args": "b"}),
    "slice": ([1, 2, 3], {"slices": 2, "fill_with": 0}),
    "sort": (["b", "A", "c"], {"reverse": True, "case_sensitive": True, "attribute": None}),
    "string": (3, {}),
    "sum": (ROWS, {"attribute": "a", "start": 10}),
    "title": ("ab cd", {}),
    "trim": ("xax", {"chars": "x"}),
    "truncate": ("a b c d e f", {"length": 6, "killwords": True, "end": "!", "leeway": 0}),
    "unique": (ROWS, {"case_sensitive": True, "attribute": "b"}),
    "upper": ("ab", {}),
    "wordcount": ("ab cd-e", {}),
    "wordwrap": (
        "ab cd-e\nfghijklm",
        {"width": 5, "break_long_words": False, "wrapstring": "/", "break_on_hyphens": False},
    ),
}
LAZY = frozenset("batch items map reject rejectattr select selectattr slice unique".split())
CALLS = [
    pytest.param(name, count, named, id=f"{name}-{count}-{'named' if named else 'placed'}")
    for name, (_, arguments) in ARGUMENTS.items()
    for count in range(len(arguments) + 1)
    for named in ((False, True) if count and "args" not in arguments else (False,))
]


def outcome(environment: jinja2.Environment, source: str, **values: Any) -> Any:
    """The value of an expression, or the class of the error that it raises."""
    try:
        return environment.from_string("{{ " + source + " }}").render(values)
    except Exception as error:
        return type(error)


@pytest.fixture
def sandbox() -> Sandbox:
    made = Sandbox()
    made.use(Budget(10_000))
    return made


def test_every_filter_has_its_arguments_here() -> None:
    assert ARGUMENTS.keys() == set(FILTERS)
    for name, (_, arguments) in ARGUMENTS.items():
        parameters = list(inspect.signature(DEFAULT_FILTERS[name]).parameters.values())
        given = [p.name for p in parameters if p.kind is not inspect.Parameter.VAR_KEYWORD]
        assert given[len(given) - len(arguments) :] == list(arguments), name


@pytest.mark.parametrize(("name", "count", "named"), CALLS)
def test_filters_take_what_jinja_s_take(name: str, count: int, named: bool, sandbox: Sandbox) -> None:
    value, arguments = ARGUMENTS[name]
    given = dict(list(arguments.items())[:count])
    theirs = jinja2.Environment()
    values = {"value": value, "arguments": list(given.values())}
    shown = ", ".join(f"{key}=arguments[{i}]" if named else f"arguments[{i}]" for i, key in enumerate(given))
    source = f"value|{name}({shown}){'|list' if name in LAZY else ''}"
    assert outcome(sandbox, source, **values) == outcome(theirs, source, **values)


@pytest.mark.parametrize(
    "source",
    [
        "[1, 2]|sum(start=3)", "rows|sum(attribute='a')", "'aab'|replace(old='a', new='c')", "'a'|center(width=5)",
        "'x'|d(default_value=1)", "['a', 'B', 'b']|unique|join", "['a', 'B', 'b']|unique(true)|join(d='-')",
        "[1, 1.0, true, '1', (1, 2), (1, 2)]|unique|list", "rows|map(attribute='a')|sort|list", "{'b': 1}|dictsort",
        "1 < 2 < 3", "1 < 2 > 3", "'a' in 'abc' != false", "2 in [1, 2]", "'a' not in {'a': 1}", "3 == 3.0",
        "[1, [2]] == [1, [2]]", "(1 < 2) == true", "1 in range(3)", "missing == none", "missing in [1]",
        "[1, 2]|select('in', [2, 3])|list", "rows|selectattr('a', 'eq', 2)|list|length", "'AB' is upper",
        "3 is divisibleby(3)",
        "'a' is in(seq='abc')", "range(2, 8, 3)|list", "dict([('a', 1)], b=2)", "namespace(a=1).a",
        "'a'.center(5, '*')",
        "'a\tb'.expandtabs()", "'a\tb'.expandtabs(3)", "'a\tb'.expandtabs(tabsize=2)", "1024|filesizeformat",
        "'a b c'.split(sep=' ', maxsplit=1)", "'a\nb'.splitlines(keepends=true)", "'a-b'.replace('-', '+', 1)",
    ],
)  # fmt: skip
def test_expressions_have_jinja_s_values(source: str, sandbox: Sandbox) -> None:
    theirs = jinja2.Environment()
    found = [environment.from_string("{{ " + source + " }}").render(rows=ROWS) for environment in (sandbox, theirs)]
    assert found[0] == found[1]


def test_every_test_of_jinja_is_there(sandbox: Sandbox) -> None:
    for name, function in DEFAULT_TESTS.items():
        assert inspect.signature(sandbox.tests[name]) == inspect.signature(function)  # type: ignore[arg-type]


def test_what_follows_in_a_comparison_is_evaluated_once_and_only_if_needed(sandbox: Sandbox) -> None:
    source = "{% set ns = namespace(n=0) %}{% macro f() %}{% set ns.n = ns.n + 1 %}{% endmacro %}"
    assert sandbox.from_string(source + "{{ '' <= f() <= '' }}{{ ns.n }}").render() == "True1"
    assert sandbox.from_string(source + "{{ 'a' < f() < f() }}{{ ns.n }}").render() == "False1"
