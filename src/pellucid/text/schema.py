"""JSON schemas before they are compiled, and the errors for those that cannot be."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator
from decimal import Decimal
from fractions import Fraction
from typing import Any

from pellucid.errors import GrammarError, one_line, shown
from pellucid.structure import Structure
from pellucid.text.disjoint import Disjoint, is_number

__all__ = ["DATED", "checked", "checked_lark", "explained", "settled", "warnings"]

# The automaton of multiples of n has n states: 0.2 s for 30,000.
MOST_MULTIPLE = 30_000
# llguidance reads numbers as doubles: for larger integers it would allow wrong values. Integers of more than 64 bits
# are not generated: a bound that excludes only those, or the last thousand of 64 bits, is changed to one that
# llguidance supports.
MOST_INTEGER, MOST_BOUND = 2**53, 2**63 - 1
LARGE = 2**63 - 1024  # the largest 64-bit integer that is a double
_LEAST, _MOST = ("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum")
# Formats of integers, as OpenAPI and programming languages name them, and their bounds.
_INTEGERS = {f"int{n}": (-(2 ** (n - 1)), 2 ** (n - 1) - 1) for n in (8, 16, 32, 64)}
_INTEGERS |= {f"uint{n}": (0, 2**n - 1) for n in (8, 16, 32, 64)}
_INTEGERS |= {"int": _INTEGERS["int64"], "uint": _INTEGERS["uint64"]}
# llguidance's dates have 29 days in every February, and its minutes may have 61 seconds.
_YEAR = r"([1-9]\d{3}|0[1-9]\d{2}|00[1-9]\d|000[1-9])"
_LEAP = r"(\d{2}(0[48]|[2468][048]|[13579][26])|([2468][048]|0[48]|[13579][26])00)"
_DATE = rf"({_YEAR}-(0[13-9]|1[0-2])-\d{{2}}|{_YEAR}-02-([01]\d|2[0-8])|{_LEAP}-02-29)"
_TIME = r"\d{2}:\d{2}:[0-5]"
DATED = {"date": f"^{_DATE}$", "time": f"^{_TIME}", "date-time": f"^{_DATE}[Tt]{_TIME}"}
# Keywords that have no effect with these values, or without any of these keywords.
_EMPTY: dict[str, tuple[Any, ...]] = {
    "uniqueItems": (False,),
    "not": (False,),
    "propertyNames": (True, {}),
    "unevaluatedItems": (True, {}),
    "unevaluatedProperties": (True, {}),
    "dependentRequired": ({},),
    "dependentSchemas": ({},),
    "dependencies": ({},),
    # Of texts that are secret, bytes of any kind, or paths that need not exist.
    "format": ("password", "binary", "path", "file-path", "directory-path"),
}
_BESIDE = {
    "minContains": ("contains",),
    "maxContains": ("contains",),
    "then": ("if",),
    "else": ("if",),
    "if": ("then", "else"),
}
# Annotations. Beside a recursive reference, llguidance rejects keywords that it does not know.
_NOTES = ("deprecated", "discriminator", "example", "externalDocs", "xml")
# Keywords whose values map names to schemas, and those whose values are not schemas.
_NAMED = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
_DATA = ("const", "enum", "default", "examples", "example", "x-guidance")
_COUNTS = {"minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties"}
_KEYWORDS = re.compile(r'Unimplemented keys: (\["[^\]]*"\])')
_FORMAT = re.compile(r"Unknown format: (.*)", re.DOTALL)
_PATTERN = re.compile(r"regex parse error:.*\n *error: ([^\n]*)", re.DOTALL)
_JSON = re.compile(r"%json\s*")
_FORMATS = ("date", "time", "date-time", "duration", "email", "hostname", "ipv4", "ipv6", "uri", "uuid")


def checked(text: str, strict: bool = True) -> dict[str, Any]:
    """The schema in a JSON text, as an object that llguidance accepts. Raises GrammarError if it allows nothing, and as
    `settled` does."""
    root = json.loads(text)
    if root is False:
        raise GrammarError("no text matches", place="schema")
    return dict(_spelled(settled({} if root is True else root, "schema", strict)))


def checked_lark(lark: str) -> str:
    """A grammar in Lark's syntax, with its schemas rewritten by `settled`."""
    parts, at = [], 0
    for found in _JSON.finditer(lark):
        try:
            root, end = json.JSONDecoder().raw_decode(lark, found.end())
        except (ValueError, RecursionError):
            continue  # llguidance rejects it
        options = root.get("x-guidance") if isinstance(root, dict) else None
        lenient = isinstance(options, dict) and options.get("lenient") is True
        made = _spelled(settled(root, "grammar", not lenient))
        if found.start() >= at and made != root:
            parts += [lark[at : found.end()], json.dumps(made, ensure_ascii=False)]
            at = end
    return "".join([*parts, lark[at:]])


def settled(root: Any, place: str, strict: bool = True) -> Any:
    """An equivalent schema that llguidance accepts (for the last 64-bit numbers, slightly stricter). Raises
    GrammarError, naming the keyword's place, if it has numbers that llguidance would not enforce, or that would take
    too long; with `strict`, also if it has other keywords that llguidance accepts but would not enforce."""
    _check(root, place)
    if strict:
        _check_free_keys(root, place)
    root = json.loads(json.dumps(root))  # the caller's own stays unchanged
    nodes = [node for _, node in _nodes(root, place)]
    references = [node[key] for node in nodes for key in ("$ref", "$dynamicRef") if isinstance(node.get(key), str)]
    named = {part for one in references for part in one.split("/")}  # parts of the paths of references
    tags = []
    for node in nodes:
        for key in node.keys() & _COUNTS:
            value = node[key]
            if isinstance(value, float) and value.is_integer():  # in JSON schemas, 2.0 is an integer
                node[key] = int(value)
        tags.append(node.get("discriminator"))
        for key in [key for key in node if key not in named and _asks_nothing(key, node)]:
            del node[key]
        _draft_4(node)
        _bound(node)
        _dated(node)
        _shorter_multiples(node)
    _open_ends(nodes)
    if "oneOf" not in named:
        _one_is_any(root, zip(nodes, tags, strict=True))
    return root


def _spelled(root: Any) -> Any:
    """Allows keys that the schema does not name by a pattern, if it has no other pattern: llguidance then writes each
    in one way only. Otherwise it would allow escapes, and so a second spelling of a key that the schema names."""
    nodes = [node for _, node in _nodes(root, "")]
    references = "".join(str(node.get("$ref", "")) for node in nodes)
    if any("patternProperties" in node for node in nodes) or "additionalProperties" in references:
        return root
    for node in nodes:
        if not (node.get("properties") or node.get("required")) or node.get("additionalProperties") is False:
            continue
        free = {"patternProperties": {"": {}}, "additionalProperties": False}
        if node.get("additionalProperties", True) in (True, {}):
            node.update(free)
        elif isinstance(node.setdefault("allOf", []), list):
            node["allOf"].append(free)
    return root


def _one_is_any(root: Any, nodes: Iterable[tuple[dict[str, Any], Any]]) -> None:
    """Replaces `oneOf` by `anyOf` if its alternatives have no value in common, which llguidance detects in few cases. A
    property that distinguishes them becomes required even if it has a default. nodes: with their discriminators."""
    disjoint = Disjoint(root)
    for node, tag in nodes:
        some = node.get("oneOf")
        if not isinstance(some, list) or "anyOf" in node:
            continue
        name = tag.get("propertyName") if isinstance(tag, dict) else None
        if isinstance(name, str) and disjoint.all([{"allOf": [one, {"required": [name]}]} for one in some]):
            for one in some:
                _require(name, disjoint.named(one["$ref"]) if isinstance(one, dict) and "$ref" in one else one)
        if disjoint.all(some):
            node["anyOf"] = node.pop("oneOf")


def _require(name: str, node: Any) -> None:
    """Makes a property that an object's schema describes required."""
    if isinstance(node, dict) and isinstance(node.get("properties"), dict) and name in node["properties"]:
        required = node.setdefault("required", [])
        if isinstance(required, list) and name not in required:
            required.append(name)


def _asks_nothing(key: str, node: dict[str, Any]) -> bool:
    """Whether a keyword, which llguidance may not know, has no effect here."""
    if key in _NOTES or (key.startswith("x-") and key != "x-guidance"):
        return True
    if key in _BESIDE:
        return not any(other in node for other in _BESIDE[key])
    return any(type(node[key]) is type(one) and node[key] == one for one in _EMPTY.get(key, ()))


def _draft_4(node: dict[str, Any]) -> None:
    """Converts exclusive bounds as draft 4 has them: True, beside the bound; alone, it has no effect."""
    for key, other in (("exclusiveMinimum", "minimum"), ("exclusiveMaximum", "maximum")):
        if node.get(key) is not True:
            continue
        if other not in node:
            del node[key]
        elif is_number(node[other]):
            node[key] = node[other]


def _bound(node: dict[str, Any]) -> None:
    """Converts formats and bounds that llguidance does not support to bounds that it does."""
    given = node.get("type")
    types = [one for one in (given if isinstance(given, list) else [given]) if isinstance(one, str)]
    whole, form = "integer" in types and "number" not in types, node.get("format")
    if isinstance(form, str) and form in _INTEGERS and whole:
        least, most = _INTEGERS[node.pop("format")]
        for key, value, tighter in (("minimum", least, max), ("maximum", most, min)):
            found = node.get(key, value)
            node[key] = tighter(found, value) if is_number(found) else found
    for key in _LEAST:
        if is_number(node.get(key)) and node[key] <= -MOST_BOUND:
            node[key] = -LARGE
    for key in _MOST:
        if is_number(node.get(key)) and node[key] >= MOST_BOUND:
            node[key] = MOST_BOUND if whole else LARGE


def _open_ends(nodes: list[dict[str, Any]]) -> None:
    """Moves an exclusive integer bound inward, by a billionth of the last digit of the other bound, if that is less
    than 1 away: for 0 < x <= 0.5, llguidance would also allow 0."""
    for key, others, sign in (("exclusiveMinimum", _MOST, 1), ("exclusiveMaximum", _LEAST, -1)):
        ends = {node[other] for node in nodes for other in others if is_number(node.get(other))}
        for node in nodes:
            if is_number(node.get(key)):
                node[key] = _beside(node[key], ends, sign)


def _beside(bound: float, ends: set[float], sign: int) -> float:
    if not 0 <= bound * sign <= MOST_INTEGER or bound != int(bound):
        return bound
    near = [end for end in ends if 0 < (end - bound) * sign < 1]
    if not near:
        return bound
    digits = max(-int(Decimal(str(end)).normalize().as_tuple().exponent) for end in near)
    moved = float(Fraction(bound) + Fraction(sign, 10 ** (digits + 9)))
    return math.nextafter(bound, sign * math.inf) if moved == bound else moved  # a double has no more digits


def _shorter_multiples(node: dict[str, Any]) -> None:
    """Adds the multiples that have fewer digits after the point: as multiples of 0.25, llguidance would not allow 0.5,
    whose digit 5 is no multiple of 25."""
    value = node.get("multipleOf")
    if not is_number(value) or value <= 0:
        return
    _, digits, exponent = Decimal(str(value)).normalize().as_tuple()
    whole, all_of = int("".join(map(str, digits))), node.get("allOf", [])
    found = [value]
    for places in range(-int(exponent) - 1, 0, -1):
        shorter = whole // math.gcd(whole, 10)
        if shorter == whole:
            break
        whole = shorter
        found.append(float(f"{whole}e-{places}"))
    if len(found) > 1 and isinstance(all_of, list):
        del node["multipleOf"]
        node["allOf"] = [*all_of, {"anyOf": [{"multipleOf": one} for one in found]}]


def _dated(node: dict[str, Any]) -> None:
    """Adds patterns to the formats of dates and times, so that Python can read them: no year 0, no second 60."""
    form = node.get("format")
    if not isinstance(form, str) or form not in DATED:
        return
    if "pattern" not in node:
        node["pattern"] = DATED[form]
    elif isinstance(node.setdefault("allOf", []), list):
        node["allOf"].append({"pattern": DATED[form]})


def _check(root: Any, place: str) -> None:
    """Raises what `settled` raises."""
    _check_integers(root, place)
    _check_multiples(root, place)
    for where, key, value in _keywords(root, place):
        found = [value] if key == "pattern" else value if key == "patternProperties" else None
        for one in found if isinstance(found, (list, dict)) else []:
            check_expression(one, f"{where}.{key}")


def check_expression(text: Any, place: str) -> None:
    """Refuses a last backslash that escapes nothing, which llguidance drops."""
    if isinstance(text, str) and len(text) - len(text.rstrip("\\")) & 1:
        raise GrammarError("not a regular expression: it ends within an escape", place=place)


def _check_free_keys(root: Any, place: str) -> None:
    """A key that the schema does not name could be repeated, and would count each time."""
    for where, node in _nodes(root, place):
        least, required = node.get("minProperties"), node.get("required")
        named = len(set(map(str, required))) if isinstance(required, list) else 0
        free = node.get("additionalProperties") is not False or node.get("patternProperties")
        if isinstance(least, (int, float)) and least > named + 1 and free:
            text = f"{shown(least)} cannot be enforced: keys that the schema does not name may be repeated"
            raise GrammarError(text, place=f"{where}.minProperties")


def _check_integers(root: Any, place: str) -> None:
    for where, key, value in _keywords(root, place):
        found: float | None = None
        if key in ("const", "enum"):
            found = _beyond(value)
        elif key in _LEAST and is_number(value) and (value > MOST_INTEGER or -MOST_BOUND < value < -MOST_INTEGER):
            found = value
        elif key in _MOST and is_number(value) and (value < -MOST_INTEGER or MOST_INTEGER < value < MOST_BOUND):
            found = value
        if found is not None:
            text = f"{shown(found)} cannot be enforced: expected integers from -2**53 to 2**53"
            raise GrammarError(text, place=f"{where}.{key}")


def _beyond(value: Any) -> int | None:
    """The first integer in a value that a double may not represent."""
    todo = [value]
    while todo:
        one = todo.pop()
        if isinstance(one, int) and abs(one) > MOST_INTEGER:
            return one
        if isinstance(one, (list, dict)):
            todo += reversed(one if isinstance(one, list) else [*one.values()])
    return None


def _check_multiples(root: Any, place: str) -> None:
    least = 1
    for where, key, value in _keywords(root, place):
        if key != "multipleOf" or isinstance(value, bool) or not isinstance(value, (int, float)) or value <= 0:
            continue
        try:
            least = math.lcm(least, Fraction(str(value)).numerator)
        except (ValueError, OverflowError):
            least = MOST_MULTIPLE + 1
        if least > MOST_MULTIPLE:
            raise GrammarError(f"multiples beyond {MOST_MULTIPLE} are too complex", place=f"{where}.multipleOf")


def _keywords(root: Any, place: str) -> Iterator[tuple[str, str, Any]]:
    """Every keyword in a schema -> (where, keyword, value)."""
    for where, node in _nodes(root, place):
        for key, value in node.items():
            yield where, key, value


def _nodes(root: Any, place: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every object in a schema whose keys are keywords -> (where, object)."""
    todo: list[tuple[str, Any, bool]] = [(place, root, False)]  # named: the keys are names
    while todo:
        where, node, named = todo.pop()
        if isinstance(node, list):
            todo += [(f"{where}[{i}]", one, False) for i, one in enumerate(node)]
        elif isinstance(node, dict):
            if not named:
                yield where, node
            for key, value in node.items():
                if named or key not in _DATA:
                    todo.append((f"{where}.{key}", value, not named and key in _NAMED))


def explained(message: str, structure: Structure) -> GrammarError:
    """The error for llguidance's message about a structure, as one line."""
    kind = structure.kind
    found = _KEYWORDS.search(message)
    if found is not None:
        return _refused(json.loads(found[1]), structure)
    if message.startswith("oneOf constraints"):
        return _refused(["oneOf"], structure, " where its alternatives may overlap")
    if message.startswith("NoExtension"):
        return GrammarError("no text matches", place=kind)
    if found := _FORMAT.fullmatch(message):
        text = f"unknown format: {one_line(found[1], 100)}; expected one of {', '.join(_FORMATS)}"
        return GrammarError(text, place=_place(structure, "format", found[1]))
    if kind != "grammar" and (found := _PATTERN.search(message)):
        text = f"not a regular expression in Rust's syntax: {one_line(found[1], 200)}"
        return GrammarError(text, place=_place(structure, "pattern", message))
    text = re.split(r"\s*<(?:non-verbose/|backtrace)>", message.replace("panic:", "llguidance failed at it:", 1))[0]
    text = re.split(r"\n\s+\d+ \| ", text)[0]  # removes the quoted lines of the grammar
    text = " ".join(text.split())
    return GrammarError(one_line(text, 300) or "it is too complex", place=kind)


def _place(structure: Structure, name: str, within: str) -> str:
    """The first place of a keyword whose value, line by line, occurs in a text; otherwise the structure's kind."""
    if structure.kind == "schema":
        for where, key, value in _keywords(json.loads(structure.text), structure.kind):
            if key == name and isinstance(value, str) and value and all(line in within for line in value.splitlines()):
                return f"{where}.{key}"
    return structure.kind


def warnings(messages: list[str], structure: Structure) -> tuple[str, ...]:
    """The lines of llguidance's warnings about a structure that it accepted."""
    out = []
    for message in messages:
        found = _KEYWORDS.search(message)
        names = json.loads(found[1]) if found is not None else []
        known = ", ".join(json.dumps(name) for name in names)
        what = known or one_line(" ".join(message.split()), 200)
        out.append(f"{structure.kind}: {what} {'are' if len(names) > 1 else 'is'} ignored")
    return tuple(out)


def _refused(names: list[str], structure: Structure, where: str = "") -> GrammarError:
    """The error for keywords that llguidance does not support. place: of the keyword, if there is only one."""
    kind = structure.kind
    quoted = ", ".join(json.dumps(name, ensure_ascii=False) for name in names)
    places = []
    if kind == "schema":
        places = [f"{at}.{key}" for at, key, _ in _keywords(json.loads(structure.text), kind) if key in names]
    text = f"the keyword{'s' if len(names) > 1 else ''} {quoted} cannot be enforced{where}"
    return GrammarError(text, place=places[0] if len(places) == 1 else kind)
