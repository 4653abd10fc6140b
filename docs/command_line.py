"""Writes command-line.md from the command line itself: python docs/command_line.py. A test compares the two."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

PAGE = Path(__file__).with_name("command-line.md")

HEAD = """# Command line

This page is generated from the commands by `python docs/command_line.py`; `pellucid COMMAND --help` says the same.

Exit codes: 0 success, 1 an error (one line on stderr), such as a schema or expression that cannot be followed, 2 wrong
usage, which includes any other invalid value of an option, 130 interrupted. The result of a command goes to
stdout, everything else to stderr. `-h` is short for `--help`.

`pellucid --install-completion` installs completion of commands, options and names of models for the current shell;
`pellucid --show-completion` prints it instead.

Standard input is read as UTF-8, and its final line ending, which programs add, is dropped; `--raw` keeps it.
`pellucid chat "Which of these is the oldest?" < list.txt` gives the model the input, a blank line, and the question.
If standard input is a pipe, `chat TEXT` waits for its end: in a script, add `< /dev/null` if there is no input.

Text from a model, a file or a server is written to a pipe unchanged, in the encoding of the locale; characters that the
encoding lacks become `?`. On a terminal, control characters except newline and tab are escaped, as in `\\x1b`; so are
characters that hide or reorder text (bidirectional overrides and isolates, zero-width spaces, tags). Joiners and
direction marks, which writing systems and emoji need, are kept. Lines wrap between words at the terminal's edge.

| variable | what it does |
|---|---|
| `PELLUCID_CACHE` | folder for models ([Models and licences](models.md)) |
| `PELLUCID_THREADS`, `PELLUCID_ISA` | as `--threads` and `--isa` |
| `PELLUCID_SHARE` | `1`: as `--share`, also for commands without this option ([Sharing weights](sharing.md)) |
| `PELLUCID_TUNE` | `off`: no measurements; `now`: measures again ([Tuning](performance.md#tuning)) |
| `HF_TOKEN`, `HF_ENDPOINT` | for `pull` from a hub |
"""


def page() -> str:
    import typer

    from pellucid.cli.app import make_app

    group: Any = typer.main.get_command(make_app())
    return "\n".join([HEAD, *(_command(name, command) for name, command in group.commands.items())])


def _command(name: str, command: Any) -> str:
    parts = [f"## pellucid {name}", inspect.cleandoc(command.help or "")]
    rows = [_row(p) for p in command.params if not getattr(p, "hidden", False) and p.name != "help"]
    if rows:
        parts.append("\n".join(["| argument or option | what it does |", "|---|---|", *rows]))
    return "\n\n".join(parts) + "\n"


def _row(param: Any) -> str:
    if param.param_type_name == "argument":
        names = param.metavar or param.name.upper()
        names = names if param.required else f"[{names}]"
    else:
        names = ", ".join([*param.opts, *param.secondary_opts])
        if not param.is_flag:
            names += f" {param.metavar or param.type.name.upper()}"
        if param.multiple:
            names += " ..."
    text = " ".join((param.help or "").split())
    default = _default(param)
    if default and "default" not in text.lower():
        text += f" Default: {default}."
    names = names.replace("|", "\\|")  # which ends a cell otherwise
    return f"| `{names}` | {text} |"


def _default(param: Any) -> str:
    """The value of an argument or option that is left out; "" if there is nothing to say."""
    default = param.default
    if param.param_type_name == "option" and param.is_flag:
        names = param.opts if default else param.secondary_opts
        return f"`{names[0]}`" if param.secondary_opts else ""
    if default is None or callable(default):
        return ""
    return ", ".join(map(str, default if isinstance(default, (list, tuple)) else [default]))


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
