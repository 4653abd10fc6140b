"""Options of the sampler, for every command that generates text."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import fields
from typing import Annotated, Any, TypeVar

import typer

from pellucid.cli import options, output
from pellucid.sampling import SamplingOptions

__all__ = ["arguments", "sampling_options"]

_Command = TypeVar("_Command", bound=Callable[..., Any])
_SAMPLING, _REPETITION, _STRUCTURE = "Sampling", "Repetition", "Structured output"

# Option -> (type, metavar, panel, help). Defaults are the library's.
_OPTIONS: dict[str, tuple[Any, str, str, str]] = {
    "temperature": (float, "T", _SAMPLING, "Divide logits by T; 0: always the most probable token."),
    "top_k": (int, "K", _SAMPLING, "Draw from the K most probable tokens; 0: all."),
    "top_p": (
        float,
        "P",
        _SAMPLING,
        "Draw from the smallest set of the most probable tokens with total probability P; 1: all.",
    ),
    "min_p": (float, "P", _SAMPLING, "Drop tokens less probable than P times the most probable one; 0: none."),
    "typical_p": (
        float,
        "P",
        _SAMPLING,
        "Draw from the smallest set of tokens nearest the expected surprise with total probability P; 1: all.",
    ),
    "top_n_sigma": (
        float,
        "N",
        _SAMPLING,
        "Draw from tokens whose logit is within N standard deviations of the highest; 0: all.",
    ),
    "xtc_probability": (
        float,
        "P",
        _SAMPLING,
        "Probability of excluding all top choices but the least probable one; 0: never.",
    ),
    "xtc_threshold": (float, "P", _SAMPLING, "Least probability of a top choice."),
    "dynatemp_range": (float, "R", _SAMPLING, "Vary the temperature by up to R with the entropy; 0: off."),
    "dynatemp_exponent": (
        float,
        "E",
        _SAMPLING,
        "The temperature varies with (entropy / largest possible entropy) ^ E.",
    ),
    "mirostat": (int, "0|2", _SAMPLING, "2: keep the surprise of the text constant, instead of filtering."),
    "mirostat_tau": (float, "BITS", _SAMPLING, "Surprise per token that mirostat aims at."),
    "mirostat_eta": (float, "RATE", _SAMPLING, "How fast mirostat corrects the surprise."),
    "samplers": (
        str | None,
        "NAMES",
        _SAMPLING,
        "Steps of the sampler, in order, separated by commas; default: all.",
    ),
    "seed": (int | None, "S", _SAMPLING, "Seed of the random draws; default: a random one."),
    "repeat_penalty": (
        float,
        "F",
        _REPETITION,
        "Divide positive logits of recent tokens by F, multiply negative ones; 1: off.",
    ),
    "presence_penalty": (float, "A", _REPETITION, "Subtract A from the logits of recent tokens."),
    "frequency_penalty": (float, "A", _REPETITION, "Subtract A from the logits of recent tokens for each occurrence."),
    "repeat_last": (int, "N", _REPETITION, "How many of the last tokens count as recent."),
    "dry_multiplier": (
        float,
        "A",
        _REPETITION,
        "DRY: subtract A * B ^ (length - L) from tokens that would continue a repetition; 0: off.",
    ),
    "dry_base": (float, "B", _REPETITION, "DRY: the base B."),
    "dry_allowed_length": (int, "L", _REPETITION, "DRY: repetitions shorter than L tokens are not penalised."),
    "dry_range": (int, "N", _REPETITION, "DRY: how many of the last tokens are searched for repetitions; -1: all."),
    "dry_breakers": (
        list[str] | None,
        "TEXT",
        _REPETITION,
        "DRY: text that a repetition does not extend across; may be given several times.",
    ),
    "schema": (str | None, "FILE", _STRUCTURE, "Answer with JSON that follows the JSON schema in this file."),
    "regex": (str | None, "RE", _STRUCTURE, "Answer with a text that matches this regular expression as a whole."),
    "choice": (list[str] | None, "TEXT", _STRUCTURE, "Answer with one of these texts; give the option once for each."),
    "grammar": (str | None, "FILE", _STRUCTURE, "Answer with a text of the grammar in this file, in Lark or GBNF."),
    "strict": (bool, "", _STRUCTURE, "Refuse a schema with keywords that cannot be enforced, or ignore them."),
}
_ALIASES = {"temperature": ("--temp",)}
_STRUCTURES = ("schema", "regex", "choice", "grammar")
_NONE_AT_FIRST = ("samplers", "seed", "dry_breakers", *_STRUCTURES)
_FILES = {"schema": "a JSON schema", "grammar": "a grammar"}


def sampling_options(command: _Command) -> _Command:
    """Decorates a command that takes ``**sampling``: adds the sampler's options, as the library names them."""
    defaults = {f.name: f.default for f in fields(SamplingOptions)}
    signature = inspect.signature(command, eval_str=True)
    kept = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
    ours = []
    for name, (kind, metavar, panel, text) in _OPTIONS.items():
        if name in signature.parameters:  # the command defines this option itself
            continue
        flags = [f"--{name.replace('_', '-')}", *_ALIASES.get(name, ())]
        flags = [f"{flags[0]}/--no-{name}"] if kind is bool else flags
        option = typer.Option(*flags, metavar=metavar or None, help=text, rich_help_panel=panel)
        default = None if name in _NONE_AT_FIRST else defaults[name]
        ours.append(
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, option])
        )
    command.__signature__ = signature.replace(parameters=[*kept, *ours])  # type: ignore[attr-defined]
    command.__annotations__ = {p.name: p.annotation for p in (*kept, *ours)} | {"return": signature.return_annotation}
    return command


def arguments(sampling: dict[str, Any]) -> dict[str, Any]:
    """The command's options of sampling as the library's, without those that were not given."""
    given = {name: value for name, value in sampling.items() if name == "seed" or value is not None}
    structures = [f"--{name}" for name in _STRUCTURES if given.get(name) not in (None, [], ())]
    if len(structures) > 1:
        raise output.UsageError(f"{structures[1]} cannot be combined with {structures[0]}")
    if "samplers" in given:
        given["samplers"] = tuple(name.strip() for name in given["samplers"].split(",") if name.strip())
    for name in ("dry_breakers", "choice"):
        if texts := options.arguments(given.pop(name, None), f"--{name.replace('_', '-')}"):
            given[name] = texts
    if "regex" in given:
        given["regex"] = options.argument(given["regex"], "--regex")
    for name, what in _FILES.items():
        if name in given:
            given[name] = _read(name, given[name], what)
    return given


def _read(name: str, path: str, what: str) -> str:
    """The text of a file that an option names."""
    from pellucid.errors import GrammarError
    from pellucid.structure import LIMIT
    from pellucid.weights.base import read_file

    data = read_file(path, LIMIT, what)
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise GrammarError(f"{path}: not UTF-8 at byte {error.start}; expected {what}", place=name) from None
