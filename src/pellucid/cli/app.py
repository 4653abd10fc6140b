"""The commands together, and what `pellucid` alone does."""

from __future__ import annotations

import importlib

import typer

from pellucid.cli.output import line

# Each is a module here with a function of the same name. None imports at its top what only its work needs.
COMMANDS = ("generate", "tokenize", "inspect", "score", "info", "plan", "bench", "pull", "models")


def make_app() -> typer.Typer:
    # Plain help and plain errors: the same on a terminal, in a pipe, and in a log.
    app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
    app.callback(invoke_without_command=True)(pellucid)
    for name in COMMANDS:
        module = importlib.import_module(f"pellucid.cli.{name}")
        app.command(name)(getattr(module, name))
    return app


def pellucid(
    context: typer.Context,
    version: bool = typer.Option(False, "--version", help="Show the version and exit."),
) -> None:
    """Runs Transformer language models on the CPU.

    Models: a GGUF file, a Hugging Face folder, a catalogue name (see `pellucid models`), or what `pull` brought.
    """
    if version:
        from pellucid import __version__

        line(f"pellucid {__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        line(context.get_help())
        raise typer.Exit
