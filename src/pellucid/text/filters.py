"""The filters and tests of chat templates: Jinja's own, each charged for its work in advance."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable, Iterator
from functools import wraps
from types import GeneratorType
from typing import Any

from jinja2.filters import FILTERS as DEFAULT_FILTERS
from jinja2.filters import ignore_case, make_attrgetter
from jinja2.tests import TESTS as DEFAULT_TESTS
from jinja2.utils import pass_environment

from pellucid.text.budget import ELEMENT, MOST_BITS, STEP, Budget

__all__ = ["NUMBER", "WIDEST", "Filters"]

FILTERS = (
    "abs attr batch capitalize center count d default dictsort e escape filesizeformat first float format groupby"
    " indent int items join last length list lower map max min reject rejectattr replace reverse round safe"
    " select selectattr slice sort string sum title trim truncate unique upper wordcount wordwrap"
).split()
WRITES = frozenset(
    "capitalize center e escape indent lower replace safe string title trim truncate upper wordcount wordwrap".split()
)
ORDERS = frozenset("dictsort groupby max min sort sum".split())  # read all of a list, some several times
LISTS = frozenset("batch groupby join list slice sort title".split())  # of a text's characters or words
# Tests that compare, by their operator.
_TESTS = {
    **dict.fromkeys(("==", "eq", "equalto"), "eq"),
    **dict.fromkeys(("!=", "ne"), "ne"),
    **dict.fromkeys((">", "gt", "greaterthan", ">=", "ge", "<", "lt", "lessthan", "<=", "le"), "lt"),
    "in": "in",
}
_BRACKET = re.compile(r"[()]")
_FORM = re.compile(r"([^a-zA-Z%]*)[hlL]?.?", re.DOTALL)  # flags, width and precision, then the conversion
NUMBER = re.compile(r"\d+")
_WORD, _NO_SPACE = re.compile(r"\w+"), re.compile(r"\S+")
LAZY = frozenset("batch map reject rejectattr select selectattr slice".split())  # may read many values to yield one
MOST_PARTS = 32  # of an attribute's path, as in "function.arguments"
WIDEST = 10_000  # maximum width that a number may be padded to


class Filters:
    """The filters and tests of the sandbox's environment."""

    @property
    def budget(self) -> Budget:
        raise NotImplementedError

    def make_filters(self) -> dict[str, Any]:
        made = {name: self._filter(name, DEFAULT_FILTERS[name]) for name in FILTERS}
        made["unique"] = self._filter("unique", self._unique)
        made["tojson"] = self._filter("tojson", self._tojson)
        return made

    def make_tests(self) -> dict[str, Any]:
        return {name: self._test(name, test) for name, test in DEFAULT_TESTS.items()}

    # ---- what grows

    def check_lines(self, text: str) -> int:
        lines = sum(text.count(end) for end in "\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029") + 1
        self.budget.room(ELEMENT * lines)
        return lines

    def check_replace(self, text: Any, old: Any, new: Any) -> None:
        if isinstance(text, str) and isinstance(old, str) and isinstance(new, str) and len(new) > len(old):
            self.budget.room(len(text) + text.count(old) * (len(new) - len(old)))

    def check_percent(self, text: str, values: Any) -> None:
        self.budget.spend(4 * len(text))
        widest = 0
        for form in _forms(text):
            if "*" in form:
                self.budget.stop("formats a text with a width from outside (*)")
            widest = max([widest, *(int(n) if len(n) < 6 else WIDEST + 1 for n in NUMBER.findall(form))])
        self.check_width(widest)
        size = self.budget.weigh(self.budget.text(values)).size
        self.budget.room(len(text) + text.count("%") * (size + widest))

    def check_width(self, width: int) -> None:
        if width > WIDEST:
            self.budget.stop("formats a value to more than %d characters", WIDEST)

    def _filter(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        signature = inspect.signature(function)
        passed = hasattr(function, "jinja_pass_arg")  # Jinja passes its environment first
        named = passed and hasattr(inspect.unwrap(function), "jinja_pass_arg")  # visible in its signature
        hidden = int(passed and not named)
        value_name = list(signature.parameters)[named]
        check = getattr(self, f"_before_{name}", None)

        @wraps(function)
        def run(*args: Any, **kwargs: Any) -> Any:
            budget = self.budget
            budget.look()
            bound = signature.bind(*args[hidden:], **kwargs)
            given = bound.arguments
            value = given[value_name]
            if name in WRITES:
                budget.text(value)
            elif name in ORDERS:
                if not isinstance(value, (str, list, tuple, dict)):
                    value = given[value_name] = budget.made(list(value))
                budget.sorting(value)
            elif name in LAZY and isinstance(value, (str, list, tuple, dict, range)) and value:
                given[value_name] = budget.counted(iter(value))
            self._check_attribute(name, given)
            if name in LISTS and isinstance(value, str):
                budget.room(ELEMENT * len(value))
            if check is not None:
                check(value, given)
            made = budget.made(function(*args[:hidden], *bound.args, **bound.kwargs))
            if isinstance(made, GeneratorType):
                budget.chained(made, (*args, *kwargs.values()))
            return made

        return run

    def _check_attribute(self, name: str, given: dict[str, Any]) -> None:
        """Limits the parts of an attribute's path, since each is looked up in each value."""
        if name in ("selectattr", "rejectattr"):
            attribute = next(iter(given.get("args", ())), None)
        else:
            attribute = (given.get("kwargs", {}) if name == "map" else given).get("attribute")
        if isinstance(attribute, str) and attribute.count(".") + attribute.count(",") >= MOST_PARTS:
            self.budget.stop("reads an attribute of more than %d parts", MOST_PARTS)

    def _test(self, name: str, function: Any) -> Callable[..., Any]:
        compares = _TESTS.get(name)

        @wraps(function)
        def run(*args: Any, **kwargs: Any) -> Any:
            budget = self.budget
            values = [*args, *kwargs.values()][hasattr(function, "jinja_pass_arg") :]
            if compares is not None and len(values) == 2:
                budget.comparing(compares, *values)
            elif name in ("lower", "upper"):
                budget.spend(budget.size(values[0]))
            budget.look()
            return function(*args, **kwargs)

        return run

    # Each checks the arguments of a filter, by their names in Jinja, before it is called, and may replace them.

    def _before_center(self, value: Any, given: dict[str, Any]) -> None:
        self.budget.whole(given.get("width", 80), self.budget.most, "a width")

    def _before_indent(self, value: Any, given: dict[str, Any]) -> None:
        width = given.get("width", 4)
        size = width if isinstance(width, int) else len(str(width))
        self.budget.room(len(str(value)) + self.check_lines(str(value)) * size)

    def _before_join(self, value: Any, given: dict[str, Any]) -> None:
        given["value"] = value = self.budget.made(list(value))
        size = self.budget.weigh(self.budget.text(value)).size
        self.budget.room(size + len(value) * len(str(self.budget.text(given.get("d", "")))))

    def _before_replace(self, value: Any, given: dict[str, Any]) -> None:
        old, new = (str(self.budget.text(given[name])) for name in ("old", "new"))
        self.check_replace(str(value), old, new)

    def _before_format(self, value: Any, given: dict[str, Any]) -> None:
        self.check_percent(str(self.budget.text(value)), given.get("kwargs") or given.get("args", ()))

    def _before_trim(self, value: Any, given: dict[str, Any]) -> None:
        self.budget.searched(str(value), given.get("chars"))

    def _before_batch(self, value: Any, given: dict[str, Any]) -> None:
        self.budget.whole(given["linecount"], 100_000, "rows")

    def _before_slice(self, value: Any, given: dict[str, Any]) -> None:
        self.budget.whole(given["slices"], 100_000, "rows")

    def _before_round(self, value: Any, given: dict[str, Any]) -> None:
        self.budget.whole(given.get("precision", 0), 30, "digits")

    def _before_int(self, value: Any, given: dict[str, Any]) -> None:
        if isinstance(value, str) and len(value) > MOST_BITS:
            self.budget.stop("reads a number of more than %d digits", MOST_BITS)

    def _before_float(self, value: Any, given: dict[str, Any]) -> None:
        self.budget.spend(self.budget.size(value))

    def _before_filesizeformat(self, value: Any, given: dict[str, Any]) -> None:
        self.budget.spend(self.budget.size(value))

    def _before_wordcount(self, value: Any, given: dict[str, Any]) -> None:
        self.budget.room(ELEMENT * sum(1 for _ in _WORD.finditer(str(value))))

    def _before_wordwrap(self, value: Any, given: dict[str, Any]) -> None:
        """Python splits a long word piece by piece, and copies the rest of it each time."""
        text = str(value)
        lengths = (match.end() - match.start() for match in _NO_SPACE.finditer(text))
        self.budget.spend(sum(length * length for length in lengths) // 16)
        self.budget.look()
        end = len(str(self.budget.text(given.get("wrapstring") or "")))
        self.budget.room(ELEMENT * len(text) + len(text) * end)
        self.check_lines(text)

    def _before_sum(self, value: Any, given: dict[str, Any]) -> None:
        if not isinstance(given.get("start", 0), (int, float)):  # adding lists takes time quadratic in their length
            self.budget.stop("adds up values that are not numbers")

    @pass_environment
    def _unique(
        self, environment: Any, value: Any, case_sensitive: bool = False, attribute: Any = None
    ) -> Iterator[Any]:
        """As Jinja's filter, charged for every earlier value with the same hash."""
        key_of = make_attrgetter(environment, attribute, postprocess=None if case_sensitive else ignore_case)
        seen: set[Any] = set()
        alike: dict[int, int] = {}
        for item in value:
            key = key_of(item)
            hashed = hash(key)
            self.budget.spend(STEP + self.budget.size(key) * (1 + alike.get(hashed, 0)))
            if key not in seen:
                seen.add(key)
                alike[hashed] = alike.get(hashed, 0) + 1
                yield item

    def _tojson(
        self,
        value: Any,
        ensure_ascii: bool = False,
        indent: Any = None,
        separators: Any = None,
        sort_keys: bool = False,
    ) -> str:
        """As in transformers: characters are not escaped for HTML."""
        budget = self.budget
        size, levels = 0, 0
        if isinstance(value, (list, tuple, dict)):
            size, levels, _, _ = budget.weigh(value)
        step = indent if isinstance(indent, int) else len(indent or "")
        budget.whole(step, 1000, "an indent")
        between = sum(len(str(part)) for part in separators or ())
        budget.room(size + size // ELEMENT * (levels * max(step, 0) + between))
        text = json.dumps(value, ensure_ascii=False, indent=indent, separators=separators, sort_keys=sort_keys)
        return self.escape_json(text) if ensure_ascii else text

    def escape_json(self, text: str) -> str:
        """JSON in ASCII from JSON in Unicode."""
        kept = self.budget.kept
        return re.sub(r"[^\x00-\x7e]", lambda match: match[0] if match[0] in kept else _json_escape(match[0]), text)


def _forms(text: str) -> Iterator[str]:
    """The flags, width and precision of each conversion of a text for ``%``, as Python reads it: a name in brackets may
    contain brackets, and where one does not end, Python stops."""
    at = text.find("%") + 1
    while at:
        depth = 0
        for bracket in _BRACKET.finditer(text, at) if text.startswith("(", at) else ():
            depth += 1 if bracket[0] == "(" else -1
            if not depth:
                at = bracket.end()
                break
        if depth:
            return
        form = _FORM.match(text, at)
        assert form is not None
        yield form[1]
        at = text.find("%", form.end()) + 1


def _json_escape(character: str) -> str:
    return json.dumps(character)[1:-1] if character > "\x7f" else "\\u007f"
