"""Fields that bind a text to a schema, an expression, a choice or a grammar: OpenAI's, vLLM's, llama-server's and
Pellucid's own."""

from __future__ import annotations

from typing import Any

from pellucid import checks
from pellucid.errors import WrongType, WrongValue
from pellucid.openai.refusal import refused
from pellucid.structure import NAMES

__all__ = ["NAMES_OF_FIELDS", "take_structure"]

# Field -> the library's option.
FIELDS: dict[str, str] = {
    **{name: name for name in NAMES},
    "json_schema": "schema",
    "guided_json": "schema",
    "guided_regex": "regex",
    "guided_choice": "choice",
    "guided_grammar": "grammar",
}
NAMES_OF_FIELDS = frozenset({*FIELDS, "structured_outputs", "strict"})
PARTS = {"json": "schema", "regex": "regex", "choice": "choice", "grammar": "grammar"}  # of structured_outputs
# Fields that have no effect here with these values: texts are compact, and there is one way to bind them.
HARMLESS: dict[str, tuple[Any, ...]] = {
    "backend": ("auto", "guidance"),
    "disable_additional_properties": (False,),
    "disable_any_whitespace": (True, False),
    "disable_fallback": (True, False),
    "json_object": (False,),
}
OBJECT = {"type": "object"}


def take_structure(rest: dict[str, Any], options: dict[str, Any], names: dict[str, str]) -> None:
    """Takes these fields out of a request, and adds them to the library's options. names: the client's names of
    options. Raises WrongValue or WrongType."""
    found: list[tuple[str, str, Any]] = []  # (field, option, value)
    for field, option in FIELDS.items():
        value = rest.pop(field, None)
        if value is not None and not (option == "grammar" and value == ""):  # some clients send "" for none
            found.append((field, option, value))
    found += _structured_outputs(rest.pop("structured_outputs", None))
    if "strict" in rest:
        options["strict"] = checks.flag("strict", rest.pop("strict"))
    found += _response_format(rest.pop("response_format", None), options)
    if len(found) > 1:
        raise refused(found[1][0], f": given beside {found[0][0]}; expected one of them")
    for field, option, value in found:
        options[option] = value
        names[option] = field


def _structured_outputs(given: Any) -> list[tuple[str, str, Any]]:
    if given is None:
        return []
    if not isinstance(given, dict):
        raise WrongType("structured_outputs", ": expected an object")
    found: list[tuple[str, str, Any]] = []
    for key, value in given.items():
        field = f"structured_outputs.{key}"
        if value is None:
            continue
        if key in PARTS:
            found.append((field, PARTS[key], value))
        elif key == "json_object" and value is True:
            found.append((field, "schema", OBJECT))
        elif value not in HARMLESS.get(key, ()):
            raise refused("structured_outputs", f"[{checks.shown(key)}] is not supported", "unsupported_field")
    return found


def _response_format(given: Any, options: dict[str, Any]) -> list[tuple[str, str, Any]]:
    if given is None:
        return []
    if not isinstance(given, dict):
        raise WrongType("response_format", ": expected an object")
    kind = given.get("type")
    if kind == "text":
        return []
    if kind == "json_object":
        schema = given.get("schema")  # llama-server's
        return [
            ("response_format", "schema", OBJECT) if schema is None else ("response_format.schema", "schema", schema)
        ]
    if kind != "json_schema":
        expected = '"text", "json_object" or "json_schema"'
        raise WrongValue("response_format.type", f"={checks.shown(kind)}: expected {expected}")
    holder, field = given.get("json_schema"), "response_format.json_schema.schema"
    if holder is None and given.get("schema") is not None:  # the Responses API's form
        holder, field = given, "response_format.schema"
    if not isinstance(holder, dict):
        raise WrongType("response_format.json_schema", ": expected an object")
    if holder.get("schema") is None:
        raise WrongValue("response_format.json_schema.schema", " is missing: expected a JSON schema")
    if not isinstance(holder["schema"], (dict, bool)):
        raise WrongType("response_format.json_schema.schema", ": expected a JSON schema")
    if holder.get("strict") is not None:
        options["strict"] = checks.flag(f"{field.removesuffix('.schema')}.strict", holder["strict"])
    return [(field, "schema", holder["schema"])]
