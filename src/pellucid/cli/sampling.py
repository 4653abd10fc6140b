"""Options of the sampler, for every command that makes text."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import fields
from typing import Annotated, Any, TypeVar

import typer

from pellucid.sampling import SamplingOptions

__all__ = ["arguments", "sampling_options"]

_Command = TypeVar("_Command", bound=Callable[..., Any])
_SAMPLING, _REPETITION = "Sampling", "Repetition"

# Option -> (type, metavar, panel, help). Defaults are the library's.
_OPTIONS: dict[str, tuple[Any, str, str, str]] = {
    "temperature": (float, "T", _SAMPLING, "0: always the most probable token."),
    "top_k": (int, "K", _SAMPLING, "Draw from the K most probable tokens; 0: all."),
    "top_p": (float, "P", _SAMPLING, "Draw from the top tokens that hold P; 1: all."),
    "min_p": (float, "P", _SAMPLING, "Drop tokens below P times the most probable one's; 0: none."),
    "typical_p": (float, "P", _SAMPLING, "Draw from the tokens of most usual surprise that hold P; 1: all."),
    "top_n_sigma": (float, "N", _SAMPLING, "Draw from tokens within N standard deviations of the best; 0: all."),
    "xtc_probability": (float, "P", _SAMPLING, "How often the top choices but the last are excluded; 0: never."),
    "xtc_threshold": (float, "P", _SAMPLING, "What is a top choice: a token of at least P."),
    "dynatemp_range": (float, "R", _SAMPLING, "Move the temperature within +-R, with the entropy."),
    "dynatemp_exponent": (float, "E", _SAMPLING, "It moves with (entropy / the most there can be) ^ E."),
    "mirostat": (int, "0|2", _SAMPLING, "2: hold the text's surprise instead of filtering."),
    "mirostat_tau": (float, "BITS", _SAMPLING, "Surprise per token that mirostat holds."),
    "mirostat_eta": (float, "RATE", _SAMPLING, "How fast mirostat corrects."),
    "samplers": (str | None, "NAMES", _SAMPLING, "Steps to take, in order, with commas; default: all."),
    "seed": (int | None, "S", _SAMPLING, "Seed of the draws; default: a new one."),
    "repeat_penalty": (float, "F", _REPETITION, "Divide logits of recent tokens by F; 1: off."),
    "presence_penalty": (float, "A", _REPETITION, "Subtract A from logits of recent tokens."),
    "frequency_penalty": (float, "A", _REPETITION, "Subtract A from them for every occurrence."),
    "repeat_last": (int, "N", _REPETITION, "Tokens that are recent."),
    "dry_multiplier": (float, "A", _REPETITION, "DRY: A * B ^ (length - L) off what repeats on; 0: off."),
    "dry_base": (float, "B", _REPETITION, "B of DRY."),
    "dry_allowed_length": (int, "L", _REPETITION, "L of DRY: what is shorter than L tokens may repeat."),
    "dry_range": (int, "N", _REPETITION, "Tokens that DRY looks back at; -1: all."),
    "dry_breakers": (list[str] | None, "TEXT", _REPETITION, "Text that ends a repetition; may be given several times."),
}
_NONE_AT_FIRST = ("samplers", "seed", "dry_breakers")


def sampling_options(command: _Command) -> _Command:
    """Decorates a command that takes ``**sampling``: the sampler's options as the library names them."""
    defaults = {f.name: f.default for f in fields(SamplingOptions)}
    signature = inspect.signature(command, eval_str=True)
    kept = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
    ours = []
    for name, (kind, metavar, panel, text) in _OPTIONS.items():
        option = typer.Option(metavar=metavar, help=text, rich_help_panel=panel)
        default = None if name in _NONE_AT_FIRST else defaults[name]
        ours.append(
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, option])
        )
    command.__signature__ = signature.replace(parameters=[*kept, *ours])  # type: ignore[attr-defined]
    command.__annotations__ = {p.name: p.annotation for p in (*kept, *ours)} | {"return": signature.return_annotation}
    return command


def arguments(sampling: dict[str, Any]) -> dict[str, Any]:
    """What the command got, as the library's options; those not given are left out where they have no value."""
    given = {name: value for name, value in sampling.items() if name == "seed" or value is not None}
    if "samplers" in given:
        given["samplers"] = tuple(name.strip() for name in given["samplers"].split(",") if name.strip())
    if not given.get("dry_breakers", True):  # an option that may come several times and did not
        del given["dry_breakers"]
    return given
