"""The environment in which chat templates run: Jinja without access to anything else, and with a budget for everything.

A template is part of a model file, so it is an untrusted program. Jinja's own sandbox hides Python's attributes but
lets a template run forever. Here

- only listed callables can be called: methods of plain values, a few functions, and filters for text;
- every operator, call, filter, comparison, list and written value passes through the environment, which weighs it
  (:class:`~pellucid.text.budget.Budget`); the compiler adds a check at the start of each block, that is, of each turn
  of a loop and each call of a macro;
- operations whose result could be disproportionately large (``*``, ``**``, ``replace``, ``center``, ``%10000d`` and the
like) is refused first.

So each step is short, and a template ends by itself, on any thread, without signals, tracing or a separate process.
"""

from __future__ import annotations

import operator
import re
import threading
from collections.abc import Callable
from datetime import datetime
from itertools import islice
from types import BuiltinMethodType, MethodType
from typing import Any

from jinja2 import nodes
from jinja2.compiler import CodeGenerator, Frame
from jinja2.exceptions import SecurityError, TemplateRuntimeError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import LoopContext, Macro, markup_join, str_join
from jinja2.sandbox import ImmutableSandboxedEnvironment, SandboxedFormatter, safe_range
from jinja2.utils import Namespace, pass_context

from pellucid.text.budget import ELEMENT, MOST_BITS, Budget, Opaque
from pellucid.text.filters import NUMBER, WIDEST, Filters

__all__ = ["Sandbox"]

MOST_PAIRS = 2000  # of a table made from a list: keys with the same hash take quadratic time; also of arguments

ATTRIBUTES: tuple[tuple[type, frozenset[str]], ...] = tuple(
    (kind, frozenset(names.split()))
    for kind, names in (
        (
            str,
            "capitalize casefold center count endswith expandtabs find format format_map index isalnum isalpha isascii"
            " isdecimal isdigit islower isnumeric isprintable isspace istitle isupper join ljust lower lstrip partition"
            " removeprefix removesuffix replace rfind rindex rjust rpartition rsplit rstrip split splitlines startswith"
            " strip swapcase title upper zfill",
        ),
        (dict, "copy get items keys values"),
        (list, "copy count index"),
        (tuple, "count grouper index list"),
        (float, "is_integer"),
        (
            LoopContext,
            "changed cycle depth depth0 first index index0 last length nextitem previtem revindex revindex0",
        ),
        (Macro, "arguments caller catch_kwargs catch_varargs name"),
    )
)

_COMPARE: dict[str, Callable[[Any, Any], Any]] = {
    "eq": operator.eq,
    "ne": operator.ne,
    "gt": operator.gt,
    "gteq": operator.ge,
    "lt": operator.lt,
    "lteq": operator.le,
    "in": lambda left, right: left in right,
    "notin": lambda left, right: left not in right,
}
METHODS = (BuiltinMethodType, MethodType)
_WORD = re.compile(r"\S+")
_TIME = re.compile(r"(?:[^%]|%-?[a-zA-Z%])*")


class _Generator(CodeGenerator):
    """Adds budget calls to the compiled template."""

    def blockvisit(self, nodes: Any, frame: Frame) -> None:
        self.writeline("environment.tick()")
        super().blockvisit(nodes, frame)

    def _through(self, name: str, visit: Callable[..., None], node: nodes.Node, frame: Frame) -> None:
        self.write(f"environment.{name}(")
        visit(node, frame)
        self.write(")")

    def visit_For(self, node: nodes.For, frame: Frame) -> None:
        if node.test is not None:  # evaluated also for values that the loop skips
            ticked = nodes.Call(nodes.EnvironmentAttribute("ticked"), [], [], None, None)
            node.test = nodes.And(ticked, node.test, lineno=node.test.lineno)
        super().visit_For(node, frame)

    def visit_Compare(self, node: nodes.Compare, frame: Frame) -> None:
        """``a < b < c`` is ``a < b and b < c``, with b evaluated once."""
        self.write("(")
        left = ""
        for number, operand in enumerate(node.ops):
            self.write(f"{' and ' if number else ''}environment.compared({operand.op!r}, {left}")
            if number == 0:
                self.visit(node.expr, frame)
            left = self.temporary_identifier()
            self.write(f", ({left} := ")
            self.visit(operand.expr, frame)
            self.write("))")
        self.write(")")

    def visit_List(self, node: nodes.List, frame: Frame) -> None:
        self._through("made", super().visit_List, node, frame)

    def visit_Tuple(self, node: nodes.Tuple, frame: Frame) -> None:
        if node.ctx == "load":
            self._through("made", super().visit_Tuple, node, frame)
        else:
            super().visit_Tuple(node, frame)

    def visit_Dict(self, node: nodes.Dict, frame: Frame) -> None:
        self._through("made", super().visit_Dict, node, frame)

    def visit_Getitem(self, node: nodes.Getitem, frame: Frame) -> None:
        if not isinstance(node.arg, nodes.Slice):
            super().visit_Getitem(node, frame)
            return
        self.write("environment.sliced(")
        self.visit(node.node, frame)
        for bound in (node.arg.start, node.arg.stop, node.arg.step):
            self.write(", ")
            if bound is None:
                self.write("None")
            else:
                self.visit(bound, frame)
        self.write(")")

    def signature(self, node: Any, frame: Frame, extra_kwargs: Any = None) -> None:
        if node.dyn_args is not None:  # f(*values): any number of arguments
            node.dyn_args = nodes.Call(nodes.EnvironmentAttribute("spread"), [node.dyn_args], [], None, None)
        super().signature(node, frame, extra_kwargs)

    def visit_Concat(self, node: nodes.Concat, frame: Frame) -> None:
        self.write("environment.strings(context, (")
        for part in node.nodes:
            self.visit(part, frame)
            self.write(", ")
        self.write("))")


class _Generation(Extension):
    """``{% generation %}``: marks what the assistant wrote, for training; here it only renders its contents."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line)


class Sandbox(Filters, ImmutableSandboxedEnvironment):
    """An environment for chat templates. Threads may render at the same time, each with the budget that it passed to
    :meth:`use`."""

    code_generator_class = _Generator
    intercepted_binops = frozenset(["+", "-", "*", "/", "//", "**", "%"])

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            optimized=False,  # nothing runs while compiling
            extensions=[_Generation, loopcontrols],
            finalize=self._finalize,
        )
        self._spending = threading.local()
        self.concat = self._concat  # type: ignore[method-assign]
        self.globals = {
            "range": self._range,
            "dict": self._dict,
            "namespace": self._namespace,
            "raise_exception": self._raise,
            "strftime_now": self._now,
        }
        self.filters = self.make_filters()
        self.tests = self.make_tests()

    @property
    def budget(self) -> Budget:
        found: Budget = self._spending.budget
        return found

    def use(self, budget: Budget | None) -> None:
        """Makes this thread render with ``budget`` from now on; None: it renders nothing more."""
        self._spending.budget = budget

    # ---- what compiled templates call -------------------------------------------------------------------------

    def tick(self) -> None:
        self.budget.spend()

    def ticked(self) -> bool:
        self.tick()
        return True

    def getitem(self, obj: Any, argument: Any) -> Any:
        if isinstance(argument, tuple):
            self.budget.hashing(argument)
        return super().getitem(obj, argument)

    def compared(self, name: str, left: Any, right: Any) -> Any:
        self.budget.comparing(name, left, right)
        return _COMPARE[name](left, right)

    def made(self, value: Any) -> Any:
        return self.budget.made(value)

    def sliced(self, value: Any, start: Any, stop: Any, step: Any) -> Any:
        return self.budget.made(value[start:stop:step])

    def spread(self, values: Any) -> list[Any]:
        return self._few(values, "arguments made of a list")

    @staticmethod
    @pass_context
    def _finalize(context: Any, value: Any) -> Any:
        return context.environment.budget.text(value)

    def _concat(self, parts: Any) -> str:
        parts = list(parts)
        self.budget.joined(parts)
        return "".join(parts)

    def strings(self, context: Any, parts: tuple[Any, ...]) -> str:
        for part in parts:
            self.budget.text(part)
        texts = [part if isinstance(part, str) else str(part) for part in parts]
        self.budget.joined(texts)
        return markup_join(parts) if context.eval_ctx.autoescape else str_join(texts)

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        budget = self.budget
        if operator == "*":
            if isinstance(left, int) and not isinstance(right, (int, float)):
                left, right = right, left
            if isinstance(right, int) and isinstance(left, (str, list, tuple)):
                budget.room(len(left) * right * (1 if isinstance(left, str) else ELEMENT))
        elif operator == "**":
            if isinstance(left, int) and isinstance(right, int) and left.bit_length() * right > MOST_BITS:
                budget.stop("makes an integer of more than %d bits", MOST_BITS)
        elif operator == "%" and isinstance(left, str):
            self.check_percent(left, right if isinstance(right, (tuple, dict)) else (right,))
        budget.look()
        return budget.made(super().call_binop(context, operator, left, right))

    def call(__self, __context: Any, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: B902
        budget = __self.budget
        budget.spend(ELEMENT * (len(args) + len(kwargs)))
        budget.look()
        if isinstance(__obj, METHODS):
            if isinstance(__obj.__self__, str):
                if __obj.__name__ == "join" and args and not isinstance(args[0], (str, list, tuple, dict)):
                    args = (list(args[0]),)
                __self._check_method(__obj.__name__, __obj.__self__, args, kwargs)
            elif args:
                __self._check_search(__obj.__name__, __obj.__self__, args)
        budget.enter()
        try:
            return budget.made(super().call(__context, __obj, *args, **kwargs))
        finally:
            budget.depth -= 1

    def unsafe_undefined(self, obj: Any, attribute: str) -> Any:
        raise SecurityError(f"{attribute!r} of {type(obj).__name__!r} is out of bounds")

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        if attr.startswith("_"):
            return False
        return isinstance(obj, Namespace) or any(isinstance(obj, k) and attr in names for k, names in ATTRIBUTES)

    # ---- what grows -------------------------------------------------------------------------------------------

    def _check_method(self, name: str, text: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        budget, first = self.budget, args[0] if args else None
        if hasattr(text, "__html__"):  # marked as safe: it also writes arguments of any other type
            for value in (*args, *kwargs.values()):
                budget.text(value)
        if name in ("startswith", "endswith"):
            budget.spend(budget.size(first))
        elif not name.startswith("format"):
            budget.spend(len(text))
        if name in ("center", "ljust", "rjust", "zfill"):
            if isinstance(first, int):
                budget.room(first)
        elif name == "expandtabs":
            width = kwargs.get("tabsize", 8) if first is None else first
            if isinstance(width, int):
                budget.room(len(text) + text.count("\t") * max(width, 0))
        elif name == "replace":
            self.check_replace(text, first, args[1] if len(args) > 1 else kwargs.get("new"))
        elif name == "join":
            if isinstance(first, (list, tuple, dict, str)):
                size = ELEMENT * len(first) if isinstance(first, str) else budget.weigh(first).size
                budget.room(len(text) * len(first) + size)
        elif name in ("split", "rsplit"):
            separator = first if first is not None else kwargs.get("sep")
            if isinstance(separator, str) and separator:
                if name == "rsplit":
                    budget.searched(text, separator)
                budget.room(ELEMENT * text.count(separator))
            elif ELEMENT * len(text) > budget.most:
                budget.room(ELEMENT * sum(1 for _ in _WORD.finditer(text)))
        elif name == "splitlines":
            self.check_lines(text)
        elif name in ("rfind", "rindex", "rpartition", "strip", "lstrip", "rstrip"):
            budget.searched(text, first)

    def _check_search(self, name: str, owner: Any, args: tuple[Any, ...]) -> None:
        """Methods of other values that search for an argument."""
        budget = self.budget
        if name in ("index", "count") and isinstance(owner, (list, tuple)):
            budget.comparing("in", args[0], owner)
        elif name == "get" and isinstance(owner, dict):
            budget.hashing(args[0])
        elif name == "changed" and isinstance(owner, LoopContext):
            budget.spend(sum(map(budget.size, args)))

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        if not isinstance(value, METHODS) or value.__name__ not in ("format", "format_map"):
            return None
        text = value.__self__
        if not isinstance(text, str):
            return None
        mapped = value.__name__ == "format_map"

        def format(*args: Any, **kwargs: Any) -> str:
            if mapped and (kwargs or len(args) != 1):
                raise TypeError("format_map() takes exactly one argument")
            return _Formatter(self).vformat(text, () if mapped else args, args[0] if mapped else kwargs)

        return format

    # ---- functions --------------------------------------------------------------------------------------------

    def _range(self, *args: Any) -> range:
        for number in args:
            self.budget.whole(number, 1 << 62, "a range to a number")
        return safe_range(*args)

    def _dict(__self, *args: Any, **kwargs: Any) -> dict[Any, Any]:  # noqa: B902
        return dict(*map(__self._pairs, args), **kwargs)

    def _namespace(__self, *args: Any, **kwargs: Any) -> Namespace:  # noqa: B902
        return _Namespace(*map(__self._pairs, args), **kwargs)

    def _pairs(self, values: Any) -> Any:
        return values if isinstance(values, dict) else self._few(values)

    def _few(self, values: Any, what: str = "a table made of a list") -> list[Any]:
        found = list(islice(values, MOST_PAIRS + 1))
        self.budget.whole(len(found), MOST_PAIRS, what)
        return found

    def _raise(self, message: Any = "") -> None:
        raise TemplateRuntimeError(f"the chat template refuses the conversation: {self.budget.text(message)}")

    def _now(self, format: Any) -> str:
        if not isinstance(format, str) or len(format) > 1000 or not _TIME.fullmatch(format):
            raise SecurityError("strftime_now: expected a format of plain directives such as %d %b %Y")
        return datetime.now().strftime(format)


class _Namespace(Namespace, Opaque):
    """Jinja's namespace, but its values are weighed and its text reveals nothing."""

    def __setitem__(self, name: str, value: Any) -> None:
        if name.startswith("_"):
            raise SecurityError(f"namespace: the name {name!r} begins with an underscore")
        super().__setitem__(name, value)

    def __repr__(self) -> str:
        return "<namespace>"


class _Formatter(SandboxedFormatter):
    """``str.format`` that charges for its fields."""

    def __init__(self, env: Sandbox) -> None:
        super().__init__(env)
        self._sandbox, self._size = env, 0

    def convert_field(self, value: Any, conversion: Any) -> Any:
        return super().convert_field(self._sandbox.budget.text(value), conversion)

    def format_field(self, value: Any, format_spec: str) -> Any:
        budget = self._sandbox.budget
        for number in NUMBER.findall(format_spec):
            self._sandbox.check_width(int(number) if len(number) < 6 else WIDEST + 1)
        text = super().format_field(budget.text(value), format_spec)
        self._size += len(text)
        budget.room(self._size)
        budget.spend(len(text))
        return text
