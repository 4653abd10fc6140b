"""The command line, a file per command. This one decides how a run ends: exit codes, errors, interrupts.

Exit codes: 0 done, 1 an error (one line on stderr), 2 wrong usage, 130 interrupted.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False  # as type checkers know it: until `main` runs, nothing that takes time is imported
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line (`argv` without the program's name; default: the process's) -> exit code."""
    try:
        return _run(list(sys.argv[1:] if argv is None else argv))
    except KeyboardInterrupt:
        return _interrupted()
    except BrokenPipeError:  # the reader has closed the pipe, as `head` does; this is not an error
        from pellucid.cli.output import forget_stdout

        forget_stdout()
        return 0
    except (OSError, ImportError, MemoryError) as error:  # modules cannot be read: no file descriptors, no memory
        reason = getattr(error, "strerror", None) or str(error) or "out of memory"
        return _failed(" ".join(reason.lower().split()))


def _failed(reason: str) -> int:
    """Reports that the program itself could not be loaded; imports nothing."""
    if sys.stderr is not None:
        sys.stderr.write(f"pellucid: {reason[:400]}\n")
    return 1


def _command(argv: Sequence[str]) -> Any:
    """The commands that `argv` needs. Ctrl-C while their modules load ends the process at once: there is nothing to
    clean up yet, and an exception could get lost in the middle of an import."""
    import signal

    usual = signal.getsignal(signal.SIGINT) is signal.default_int_handler  # neither ignored nor replaced
    try:
        if usual:
            signal.signal(signal.SIGINT, _leave)
    except ValueError:  # this is not the main thread, the only one that receives signals
        usual = False
    try:
        import typer

        from pellucid.cli.app import make_app, needed

        return typer.main.get_command(make_app(needed(argv)))
    finally:
        if usual:
            signal.signal(signal.SIGINT, signal.default_int_handler)


def _leave(*_: object) -> None:
    if os.isatty(1):  # the terminal shows ^C
        os.write(1, b"\n")
    os._exit(130)


def _run(argv: list[str]) -> int:
    asked = os.environ.get("_PELLUCID_COMPLETE")  # by the shell, for what may follow on its command line
    command = _command([] if asked else argv)
    import typer

    from pellucid.cli import output
    from pellucid.errors import PellucidError, os_reason

    try:  # newer versions of Typer have their own copy of click
        from typer._click.exceptions import ClickException
    except ImportError:
        from click import ClickException  # type: ignore[assignment]

    output.prepare()
    if asked:
        from typer.completion import shell_complete

        return int(shell_complete(command, {}, "pellucid", "_PELLUCID_COMPLETE", asked) or 0)
    try:
        width = max(min(output.columns(), 80) - 2, 20)
        with command.make_context("pellucid", argv, terminal_width=width) as context:
            command.invoke(context)
        output.flush()
    except typer.Exit as done:
        output.flush()
        return done.exit_code
    except ClickException as error:
        context_ = getattr(error, "ctx", None)
        path = context_.command_path if context_ else " ".join(["pellucid", *argv[:1]])  # an option without its value
        return output.fail(f"{error.format_message()} (see {path} --help)", 2)
    except output.UsageError as error:
        return output.fail(str(error), 2)
    except PellucidError as error:
        return output.fail(str(error), 1)
    except BrokenPipeError:
        raise
    except OSError as error:
        reason = os_reason(error)
        return output.fail(reason if error.filename is None else f"{error.filename or repr('')}: {reason}", 1)
    except MemoryError:
        return output.fail("out of memory", 1)
    return 0


def _interrupted() -> int:
    import signal

    from pellucid.cli import output

    try:
        output.end_line(interrupted=True)
        # At exit Python waits for the thread that builds a vocabulary: another Ctrl-C then ends the process quietly.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    except (OSError, KeyboardInterrupt):  # the reader is gone, or Ctrl-C was pressed again
        output.forget_stdout()
    return 130
