"""All commands, and what `pellucid` does without one."""

from __future__ import annotations

import importlib
from typing import Any

import typer
from typer.core import TyperCommand

from pellucid.cli.output import line

# Each is a module of this folder with a function of the same name, which imports what only its work needs.
COMMANDS = ("generate", "chat", "tokenize", "inspect", "score", "info", "plan", "bench", "pull", "models")


class Command(TyperCommand):
    """A command whose help has a section for each panel named in its options."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        sections: dict[str, list[tuple[str, str]]] = {"Arguments": [], "Options": []}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            if record is not None:
                usual = "Arguments" if param.param_type_name == "argument" else "Options"
                sections.setdefault(getattr(param, "rich_help_panel", None) or usual, []).append(record)
        for title, records in sections.items():
            if records:
                with formatter.section(title):
                    formatter.write_dl(records)


def make_app() -> typer.Typer:
    # Help and errors in plain text are the same on a terminal, in a pipe and in a log.
    app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
    app.callback(invoke_without_command=True)(pellucid)
    for name in COMMANDS:
        module = importlib.import_module(f"pellucid.cli.{name}")
        app.command(name, cls=Command)(getattr(module, name))
    return app


def pellucid(
    context: typer.Context,
    version: bool = typer.Option(False, "--version", help="Show the version and exit."),
) -> None:
    """Runs Transformer language models on the CPU.

    A model is a GGUF file, a Hugging Face folder, a catalogue name (see `pellucid models`), or a name that was given
    to `pull`.
    """
    if version:
        from pellucid import __version__

        line(f"pellucid {__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        line(context.get_help())
        raise typer.Exit
