"""Typed Python functions as tools: their declaration, from signature and docstring, and how a call runs one."""

from __future__ import annotations

import dataclasses
import enum
import inspect
import json
import re
import types
import typing
from collections.abc import Callable, Mapping, Sequence, Set
from typing import Annotated, Any, Literal, get_args, get_origin

from pellucid.errors import WrongType, WrongValue, one_line

__all__ = ["declare", "run"]

_PLAIN = {str: "string", int: "integer", float: "number", bool: "boolean", type(None): "null"}
_GOOGLE = re.compile(r"^[ \t]*(?:Args|Arguments|Parameters)[ \t]*:[ \t]*$", re.M)
_SECTION = re.compile(r"^(?:Returns|Return|Raises|Yields|Examples?|Notes?|Attributes)[ \t]*:", re.M)
_SPHINX = re.compile(r"^[ \t]*:param[ \t]+(?:[^:\n]*[ \t])?(\w+)[ \t]*:[ \t]*(.*(?:\n[ \t]+[^:\s].*)*)", re.M)
_FIELD = re.compile(r"^[ \t]*:\w+", re.M)
_ITEM = re.compile(r"^([ \t]*)(\w+)[ \t]*(?:\([^)\n]*\))?[ \t]*:[ \t]*(.*)$")
_MOST_DEPTH = 20


def declare(function: Callable[..., Any], place: str = "tools") -> dict[str, Any]:
    """A function's declaration in OpenAI's form: its name, the text of its docstring, and a JSON schema of its
    parameters, from their types. The docstring may describe them ("Args:" with a line for each, or ``:param name:``),
    as may ``Annotated[type, "text"]``.

    Types: str, int, float, bool, None, Any, Literal, enumerations, lists, tuples, sets, dicts, unions, dataclasses,
    TypedDict, NamedTuple, and classes with ``model_json_schema`` (pydantic). Raises TypeError, naming the parameter,
    for others, for a parameter without a type, and for ``*args`` and the like.
    """
    name = getattr(function, "__name__", type(function).__name__)
    try:
        parameters = inspect.signature(function).parameters.values()
        target = function if inspect.isroutine(function) else type(function).__call__
        hints = typing.get_type_hints(target, include_extras=True)
    except Exception as error:
        raise WrongType(place, f": {name}: no signature with types: {one_line(str(error))}") from None
    text, described = _docstring(inspect.getdoc(function) or "")
    properties: dict[str, Any] = {}
    required = []
    for one in parameters:
        where = f": {name}({one.name})"
        if one.kind not in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY):
            raise WrongType(place, f"{where}: expected a parameter that has a name")
        if one.name not in hints:
            raise WrongType(place, f"{where}: expected a type")
        schema = _schema(hints[one.name], place, where, 0)
        if one.name in described and "description" not in schema:
            schema["description"] = described[one.name]
        if one.default is one.empty:
            required.append(one.name)
        elif one.default is None or isinstance(one.default, (str, int, float, bool)):
            schema["default"] = one.default.value if isinstance(one.default, enum.Enum) else one.default
        properties[one.name] = schema
    table = {"type": "object", "properties": properties, "required": required, "additionalProperties": False}
    return {"type": "function", "function": {"name": name, "description": text, "parameters": table}}


def run(functions: Mapping[str, Callable[..., Any]], name: str, arguments: str) -> str:
    """Calls a function with arguments that a model wrote -> its result as text: JSON, unless it is text already. If the
    name is unknown, the arguments are not an object or do not fit, or the function raises, the text is an error
    message. An asynchronous function runs to its end; raises RuntimeError if an event loop is running in this thread,
    in which the function would have to be awaited."""
    function = functions.get(name)
    if function is None:
        return f"Error: there is no function {name}; there are: {', '.join(functions)}"
    try:
        given = json.loads(arguments or "{}")
    except (ValueError, RecursionError) as error:
        return f"Error: the arguments are not JSON: {one_line(str(error))}"
    if not isinstance(given, dict):
        return "Error: the arguments are not a JSON object"
    try:
        target = function if inspect.isroutine(function) else type(function).__call__
        hints = typing.get_type_hints(target, include_extras=True)
        signature = inspect.signature(function)
        bound = signature.bind(**{k: _value(hints.get(k, Any), v) for k, v in given.items()})
    except Exception as error:
        return f"Error: the arguments do not fit: {one_line(str(error))}"
    call = _awaited(function, name) if inspect.iscoroutinefunction(target) else function
    try:
        result = call(*bound.args, **bound.kwargs)
    except (Exception, SystemExit) as error:
        return f"Error: {type(error).__name__}: {one_line(str(error))}"
    if isinstance(result, str):
        return result
    try:
        return json.dumps(result, ensure_ascii=False, default=_plain)
    except (TypeError, ValueError, RecursionError):
        return str(result)


def _awaited(function: Callable[..., Any], name: str) -> Callable[..., Any]:
    """An asynchronous function as one that returns its result."""
    import asyncio

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return lambda *args, **options: asyncio.run(function(*args, **options))
    raise RuntimeError(f"{name} is asynchronous, and an event loop is running: await it, or call run in a thread")


# ---- docstrings -----------------------------------------------------------------------------------------------------


def _docstring(text: str) -> tuple[str, dict[str, str]]:
    """(a docstring's text, its description of each parameter)."""
    described = {name: " ".join(said.split()) for name, said in _SPHINX.findall(text)}
    match = _GOOGLE.search(text)
    if match is not None:
        described.update(_items(text[match.end() :]))
    ends = [found.start() for found in (match, _SECTION.search(text), _FIELD.search(text)) if found is not None]
    return text[: min(ends, default=len(text))].strip(), described


def _items(text: str) -> dict[str, str]:
    """The entries of a section: a line for each, continued by deeper lines."""
    found: dict[str, str] = {}
    indent, name = None, ""
    for line in text.split("\n"):
        if not line.strip():
            continue
        depth = len(line) - len(line.lstrip())
        if indent is None:
            indent = depth
        if depth < indent or (depth == 0 and not _ITEM.match(line)):
            break
        match = _ITEM.match(line)
        if depth == indent and match is not None:
            if _SECTION.match(line):
                break
            name = match.group(2)
            found[name] = match.group(3).strip()
        elif name:
            found[name] = f"{found[name]} {line.strip()}".strip()
    return found


# ---- types ----------------------------------------------------------------------------------------------------------


def _schema(hint: Any, place: str, where: str, depth: int) -> dict[str, Any]:
    """The JSON schema of a type."""
    if depth > _MOST_DEPTH:
        raise WrongType(place, f"{where}: a type that is nested too deeply")

    def inner(one: Any) -> dict[str, Any]:
        return _schema(one, place, where, depth + 1)

    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        found = inner(arguments[0])
        text = next((one for one in arguments[1:] if isinstance(one, str)), None)
        return found if text is None else {**found, "description": text}
    if origin in (typing.Required, typing.NotRequired) if hasattr(typing, "Required") else False:
        return inner(arguments[0])
    if hint is Any or hint is object:
        return {}
    if isinstance(hint, type) and hint in _PLAIN:
        return {"type": _PLAIN[hint]}
    if hint is None:
        return {"type": "null"}
    if origin is Literal:
        return _choices(list(arguments), place, where)
    if origin in (typing.Union, types.UnionType):
        parts = [inner(one) for one in arguments]
        plain = all(set(one) == {"type"} and isinstance(one["type"], str) for one in parts)
        return {"type": [one["type"] for one in parts]} if plain else {"anyOf": parts}
    kind = origin or hint
    if isinstance(kind, type):
        return _of_class(kind, arguments, place, where, inner)
    raise WrongType(place, f"{where}: {one_line(str(hint))} has no JSON schema")


def _of_class(
    kind: type, arguments: tuple[Any, ...], place: str, where: str, inner: Callable[[Any], dict[str, Any]]
) -> dict[str, Any]:
    if issubclass(kind, enum.Enum):
        return _choices([one.value for one in kind], place, where)
    model = getattr(kind, "model_json_schema", None)
    if callable(model):
        return dict(model())
    if dataclasses.is_dataclass(kind):
        hints = typing.get_type_hints(kind, include_extras=True)
        fields = [one for one in dataclasses.fields(kind) if one.init]
        missing = dataclasses.MISSING
        needed = [one.name for one in fields if one.default is missing and one.default_factory is missing]
        return _object({one.name: inner(hints[one.name]) for one in fields}, needed)
    if issubclass(kind, dict) and hasattr(kind, "__required_keys__"):  # TypedDict
        hints = typing.get_type_hints(kind, include_extras=True)
        return _object({name: inner(one) for name, one in hints.items()}, sorted(kind.__required_keys__))
    if issubclass(kind, tuple) and hasattr(kind, "_fields"):  # NamedTuple
        hints = typing.get_type_hints(kind, include_extras=True)
        defaults = getattr(kind, "_field_defaults", {})
        return _object({name: inner(one) for name, one in hints.items()}, [n for n in hints if n not in defaults])
    if issubclass(kind, Mapping):
        if len(arguments) == 2 and arguments[0] is not str:
            raise WrongType(place, f"{where}: expected a dict whose keys are str")
        return {"type": "object", **({"additionalProperties": inner(arguments[1])} if len(arguments) == 2 else {})}
    if issubclass(kind, tuple) and arguments and arguments[-1] is not Ellipsis:
        n = len(arguments)
        return {"type": "array", "prefixItems": [inner(one) for one in arguments], "minItems": n, "maxItems": n}
    if issubclass(kind, (Sequence, Set)) and not issubclass(kind, (str, bytes)):
        found: dict[str, Any] = {"type": "array", **({"items": inner(arguments[0])} if arguments else {})}
        return {**found, "uniqueItems": True} if issubclass(kind, Set) else found
    raise WrongType(place, f"{where}: {kind.__name__} has no JSON schema")


def _object(properties: dict[str, Any], required: list[str]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def _choices(values: list[Any], place: str, where: str) -> dict[str, Any]:
    kinds = sorted({_PLAIN[type(one)] for one in values if type(one) in _PLAIN})
    if not values or any(type(one) not in _PLAIN for one in values):
        raise WrongValue(place, f"{where}: expected choices among texts, numbers, truth values and None")
    return {"type": kinds[0] if len(kinds) == 1 else kinds, "enum": values}


# ---- values ---------------------------------------------------------------------------------------------------------


def _value(hint: Any, value: Any) -> Any:
    """A value from JSON, converted to its type. Raises ValueError or TypeError if it does not fit."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return _value(arguments[0], value)
    if origin in (typing.Union, types.UnionType):
        for one in arguments:
            try:
                return _value(one, value)
            except (ValueError, TypeError, KeyError):
                continue
        raise ValueError(f"{one_line(repr(value), 60)} is not of any of the expected types")
    if origin is Literal:
        if not any(value == one and type(value) is type(one) for one in arguments):
            raise ValueError(f"{one_line(repr(value), 60)}: expected one of {', '.join(map(repr, arguments))}")
        return value
    kind = origin or hint
    if not isinstance(kind, type) or kind is object:
        return value
    if kind in _PLAIN:
        if kind is float and type(value) is int:
            return float(value)
        if kind is int and type(value) is float and value.is_integer():
            return int(value)
        if type(value) is not kind:
            raise TypeError(f"{one_line(repr(value), 60)}: expected {_PLAIN[kind]}")
        return value
    return _instance(kind, arguments, value)


def _instance(kind: type, arguments: tuple[Any, ...], value: Any) -> Any:
    validate = getattr(kind, "model_validate", None)
    if issubclass(kind, enum.Enum):
        return kind(value)
    if callable(validate):
        return validate(value)
    fields = dataclasses.is_dataclass(kind) or hasattr(kind, "_fields") or hasattr(kind, "__required_keys__")
    if fields or issubclass(kind, Mapping):
        if not isinstance(value, dict):
            raise TypeError(f"{one_line(repr(value), 60)}: expected an object")
        if not fields:
            return {k: _value(arguments[1], v) if len(arguments) == 2 else v for k, v in value.items()}
        hints = typing.get_type_hints(kind, include_extras=True)
        return kind(**{k: _value(hints.get(k, Any), v) for k, v in value.items()})
    if not isinstance(value, list):
        raise TypeError(f"{one_line(repr(value), 60)}: expected a list")
    if issubclass(kind, tuple) and arguments and arguments[-1] is not Ellipsis:
        if len(arguments) != len(value):
            raise ValueError(f"expected {len(arguments)} values, not {len(value)}")
        return tuple(_value(one, v) for one, v in zip(arguments, value, strict=True))
    items = [_value(arguments[0], v) if arguments else v for v in value]
    for made in (tuple, frozenset, set):
        if issubclass(kind, made):
            return made(items)
    return set(items) if issubclass(kind, Set) else items


def _plain(value: Any) -> Any:
    """For JSON: dataclasses, models and enumerations as plain data, all else as text."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    if isinstance(value, enum.Enum):
        return value.value
    dump = getattr(value, "model_dump", None)
    if callable(dump):
        return dump()
    if isinstance(value, (set, frozenset)):
        return sorted(value, key=repr)
    return str(value)
