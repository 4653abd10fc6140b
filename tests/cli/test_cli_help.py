"""What all commands have in common: help, completion, names of options, and that a wrong value is a usage error."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pellucid.cli.app import COMMANDS, make_app
from pellucid.weights import catalog

from .conftest import COMMAND, Run, error_line
from .terminal import on_terminal
from .test_cli_commands import lines

NUMBERS = {"N", "T", "K", "P", "S", "F", "A", "R", "E", "L", "H", "B", "BITS", "RATE", "0|2"}
WITH_MODEL = ("generate", "chat", "inspect", "score", "embed", "info", "plan", "bench")


def group() -> Any:
    import typer

    return typer.main.get_command(make_app())


def options_of(name: str) -> list[Any]:
    return [p for p in group().commands[name].params if p.param_type_name == "option"]


# ---- help -------------------------------------------------------------------------------------------------------


def test_help(run: Run, call: Run) -> None:
    alone = lines(run())
    assert alone == lines(call("--help")) == lines(call("-h"))
    for name in COMMANDS:
        assert any(line.split()[:1] == [name] for line in alone)
        assert lines(call(name, "--help")) == lines(call(name, "-h"))
    help = lines(call("generate", "--help"))
    assert help[0] == "Usage: pellucid generate [OPTIONS] [TEXT | -]"
    sections = [line for line in help if line.endswith(":") and not line.startswith(" ")]
    assert sections == ["Arguments:", "Options:", "Sampling:", "Repetition:", "Structured output:"]
    shown = {
        line.split()[0].rstrip(",")
        for line in help[help.index("Sampling:") : help.index("Structured output:")]
        if line.startswith("  --")
    }
    looked_at = {"--temperature", "--top-k", "--samplers", "--seed", "--repeat-penalty", "--dry-breakers", "--mirostat"}
    assert looked_at <= shown and len(shown) == 24


@pytest.mark.parametrize("columns", [40, 80, 120])
@pytest.mark.parametrize("name", ["", *COMMANDS])
def test_help_is_never_cut_off(name: str, columns: int, monkeypatch: pytest.MonkeyPatch, call: Run) -> None:
    """Every word of every text is there, no line is longer than the terminal, and no word is broken."""
    monkeypatch.setenv("COLUMNS", str(columns))
    shown = call(*([name] if name else []), "--help").stdout.decode()
    assert max(map(len, shown.splitlines())) <= columns
    assert "..." not in shown.replace("[ARGS]...", "") and "\u2026" not in shown
    flat = " ".join(shown.split())
    if not name:
        texts = [command.help.split("\n\n")[0].partition(". ")[0] for command in group().commands.values()]
    else:
        texts = [p.help for p in group().commands[name].params if p.help] + [group().commands[name].help]
    assert [text for text in texts if " ".join(text.split()) not in flat] == []


def test_help_on_terminals() -> None:
    for columns in (40, 80, 120):
        for colour in (False, True):
            code, seen = on_terminal("pull", "-h", columns=columns, colour=colour)
            assert code == 0 and "OWNER/NAME[@REVISION][:FILE]" in seen
            assert max(map(len, seen.splitlines())) <= columns


def test_temp_is_the_temperature(call: Run) -> None:
    for name in ("generate", "chat", "inspect"):
        done = call(name, "--temp", "-1")
        assert (done.returncode, error_line(done)[:31]) == (2, "pellucid: --temperature=-1.0: e")


# ---- completion -------------------------------------------------------------------------------------------------


def complete(*words: str, **environment: str) -> list[str]:
    env = {
        **os.environ,
        "_PELLUCID_COMPLETE": "complete_bash",
        "COMP_WORDS": " ".join(["pellucid", *words]),
        "COMP_CWORD": str(len(words)),
        **environment,
    }
    done = subprocess.run(COMMAND, env=env, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.split()


def test_completion_of_commands_and_options() -> None:
    assert complete("in") == ["inspect", "info"]
    assert complete("generate", "--top") == ["--top-k", "--top-p", "--top-n-sigma"]
    assert complete("generate", "--temp") == ["--temperature", "--temp"]
    assert complete("info", "--kv", "f") == ["f32", "f16"]
    assert "scalar" in complete("info", "--isa", "s")


def test_completion_of_models(tmp_path: Path) -> None:
    model = tmp_path / "hub" / "owner" / "small" / "small.gguf"
    model.parent.mkdir(parents=True)
    model.write_bytes(b"GGUF")
    everywhere = [entry.name for entry in catalog.entries()] + ["owner/small"]
    for words in (("generate", "-m"), ("chat", "--model"), ("pull",)):
        assert complete(*words, "", PELLUCID_CACHE=str(tmp_path))[: len(everywhere)] == everywhere
    assert complete("info", "-m", "sm", PELLUCID_CACHE=str(tmp_path)) == ["smollm2-135m"]
    assert complete("rm", "", PELLUCID_CACHE=str(tmp_path)) == ["owner/small"]
    assert complete("info", "-m", "sm", PELLUCID_CACHE="/dev/null/x") == ["smollm2-135m"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_shells_script(shell: str, tmp_path: Path) -> None:
    env = {**os.environ, "HOME": str(tmp_path), "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    done = subprocess.run([*COMMAND, "--show-completion", shell], env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and "_PELLUCID_COMPLETE=complete_" in done.stdout
    installed = subprocess.run([*COMMAND, "--install-completion", shell], env=env, capture_output=True, timeout=60)
    assert installed.returncode == 0
    assert any("_PELLUCID_COMPLETE" in path.read_text() for path in tmp_path.rglob("*pellucid*") if path.is_file())
    assert "--install-completion" in subprocess.run([*COMMAND, "-h"], capture_output=True, text=True).stdout


# ---- usage errors -----------------------------------------------------------------------------------------------


def test_every_option_for_a_number_refuses_a_word(call: Run) -> None:
    looked_at = 0
    for name in COMMANDS:
        for param in options_of(name):
            if param.metavar in NUMBERS:
                looked_at += 1
                done = call(name, *(["x"] if name == "rm" else []), f"{param.opts[-1]}=x")
                assert done.returncode == 2 and param.opts[-1] in error_line(done), (name, param.opts)
    assert looked_at > 70


@pytest.mark.parametrize("name", WITH_MODEL)
@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--isa", "abacus"), ("--isa", ""), ("--isa", "neon"), ("--kv", "q9"), ("--kv", ""), ("--cache-bytes", "1x"),
        ("--cache-bytes", "0"), ("--threads", "0"), ("--threads", "9" * 30),
    ],
)  # fmt: skip
def test_words_and_ranges_of_loading(name: str, option: str, value: str, call: Run) -> None:
    text = ["x"] if name in ("generate", "inspect", "score", "embed") else ["--lines"] if name == "chat" else []
    done = call(name, *text, f"{option}={value}")
    assert done.returncode == 2 and error_line(done).startswith(f"pellucid: {option}")


@pytest.mark.parametrize(
    "arguments",
    [
        ("generate", "--seed", "9" * 30),
        ("generate", "--max-tokens=-1"),
        ("generate", "--samplers", "top"),
        ("generate", "--mirostat", "1"),
        ("generate", "--context", "0"),
        ("inspect", "--only", "colours"),
        ("inspect", "--position", "99"),
        ("inspect", "--layer", "99"),
        ("inspect", "--show", "0"),
        ("score", "--top", "99999999"),
        ("score", "--window", "1"),
    ],
)
def test_words_and_ranges(arguments: tuple[str, ...], call: Run) -> None:
    done = call(arguments[0], "x", *arguments[1:])
    option = arguments[1].partition("=")[0]
    assert done.returncode == 2 and option in error_line(done)


def test_words_and_ranges_without_a_text(call: Run) -> None:
    for arguments in (
        ("chat", "--repeat-last=-2"),
        ("bench", "--repeat", "0"),
        ("bench", "--phase", "nap"),
        ("plan", "--rows", "0"),
        ("plan", "--depth=-1"),
        ("pull", "--max-bytes", "0"),
        ("pull", "o/n", "--sha256", "x"),
        ("pull", "--min-rate", "slow"),
    ):
        option = next(a for a in arguments if a.startswith("--")).partition("=")[0]
        done = call(*arguments)
        assert done.returncode == 2 and option in error_line(done), arguments


def test_an_option_that_is_wrong_downloads_nothing(run: Run, tmp_path: Path) -> None:
    for option in ("--isa=abacus", "--kv=q9", "--threads=0"):
        done = run("generate", "x", option, PELLUCID_CACHE=str(tmp_path))
        assert done.returncode == 2 and option.partition("=")[0] in error_line(done)
    assert list(tmp_path.iterdir()) == []


# ---- other ------------------------------------------------------------------------------------------------------


def test_cache_bytes(call: Run, tiny: Path) -> None:
    import json

    found = json.loads(call("info", "-m", str(tiny), "--cache-bytes", "1.5MiB", "--json").stdout)
    assert found["cache_limit"] == 3 << 19
    found = json.loads(call("info", "-m", str(tiny), "--checkpoints", "1.5MiB", "--json").stdout)
    assert found["checkpoint_bytes"] == found["state_bytes"] == 0  # it has no recurrent layers
    done = call("generate", "x", "--checkpoints", "0")
    assert done.returncode == 2 and "--checkpoints=" in error_line(done)
    done = call("generate", "x", "--cache-bytes", "1K")
    assert done.returncode == 1 and "cache_bytes=1000" in error_line(done)


@pytest.mark.parametrize("limit", [3, 4])
def test_without_file_descriptors(limit: int) -> None:
    code = (
        "import resource, sys; from pellucid.cli import main;"
        f"resource.setrlimit(resource.RLIMIT_NOFILE, ({limit}, {limit})); sys.exit(main(['info']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.startswith("pellucid: ") and done.stderr.count("\n") == 1
