"""All commands, and what `pellucid` does without one."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from pellucid.cli.output import line

# Each is a module of this folder with a function of the same name, which imports what only that command needs.
COMMANDS = (
    "generate",
    "chat",
    "serve",
    "tokenize",
    "inspect",
    "score",
    "embed",
    "batch",
    "info",
    "plan",
    "bench",
    "tune",
    "quantize",
    "convert",
    "imatrix",
    "pull",
    "models",
    "rm",
)

_NARROW = 60  # columns; on narrower terminals, an option's name has its own line


class Command(TyperCommand):
    """A command whose help has a section for each panel named in its options."""

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        names = [(_name(param), param.required) for param in self.params if _is_argument(param)]
        return ["[OPTIONS]", *(name if required else f"[{name}]" for name, required in names)]

    def format_options(self, ctx: Any, formatter: Any) -> None:
        sections: dict[str, list[tuple[str, str]]] = {"Arguments": [], "Options": []}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            if record is None:
                continue
            if _is_argument(param):
                sections["Arguments"].append((_name(param), record[1]))
            else:
                sections.setdefault(getattr(param, "rich_help_panel", None) or "Options", []).append(record)
        for title, records in sections.items():
            _section(formatter, title, records)


class Group(TyperGroup):
    """All commands; its help shows the whole first sentence of each."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        _section(formatter, "Commands", [(name, _sentence(self.commands[name].help or "")) for name in self.commands])

    def format_options(self, ctx: Any, formatter: Any) -> None:
        records = [param.get_help_record(ctx) for param in self.get_params(ctx)]
        _section(formatter, "Options", [record for record in records if record is not None])
        self.format_commands(ctx, formatter)


def _is_argument(param: Any) -> bool:
    return bool(param.param_type_name == "argument")


def _name(argument: Any) -> str:
    return str(argument.metavar or argument.name.upper())


def _section(formatter: Any, title: str, records: Sequence[tuple[str, str]]) -> None:
    if records:
        with formatter.section(title):
            formatter.write_dl(records, col_max=30 if formatter.width >= _NARROW else 2)


def _sentence(text: str) -> str:
    """The first sentence of a text."""
    first, end, _ = " ".join(text.split()).partition(". ")
    return first + end.rstrip()


def needed(argv: Sequence[str]) -> Sequence[str]:
    """The commands that a run with these arguments loads: the one that they name, or else all of them."""
    if list(argv) == ["--version"]:
        return ()
    return argv[:1] if argv and argv[0] in COMMANDS else COMMANDS


def make_app(commands: Sequence[str] = COMMANDS) -> typer.Typer:
    # Help and errors in plain text are the same on a terminal, in a pipe and in a log.
    app = typer.Typer(
        cls=Group,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback(invoke_without_command=True)(pellucid)
    for name in commands:
        module = importlib.import_module(f"pellucid.cli.{name}")
        app.command(name, cls=Command)(getattr(module, name))
    return app


def pellucid(
    context: typer.Context,
    version: bool = typer.Option(False, "--version", help="Show the version and exit."),
) -> None:
    """Runs Transformer language models on the CPU.

    A model is a GGUF file, a Hugging Face folder, a catalogue name (see `pellucid models`), or the name of a model
    downloaded with `pull`.
    """
    if version:
        from pellucid import __version__

        line(f"pellucid {__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        line(context.get_help())
        raise typer.Exit
