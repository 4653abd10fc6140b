"""`pellucid generate`: the text, the options, and every way in which it can end."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import time
from pathlib import Path

import pytest

from pellucid import Model

from .conftest import COMMAND, Run, error_line

PROMPT = "The capital of France is"
HINT = "the model ended the text immediately; to ask it something, use its chat template: pellucid chat TEXT"


@pytest.fixture(scope="module")
def expected(smollm2: Path) -> str:
    with Model.load(smollm2) as model:
        return model.generate(PROMPT, temperature=0, max_tokens=12).text


def test_text_equals_the_library(run: Run, expected: str) -> None:
    done = run("generate", PROMPT, "--temperature", "0", "-n", "12")
    assert done.returncode == 0, done.stderr
    assert done.stdout.decode() == expected
    assert expected.startswith(" Paris")
    timings = done.stderr.decode()
    assert timings.count("\n") == 1 and "prompt 5 tokens" in timings and "length]" in timings


@pytest.mark.parametrize("arguments", [["-"], []])
def test_prompt_from_stdin(run: Run, expected: str, arguments: list[str]) -> None:
    done = run("generate", *arguments, "--temperature", "0", "-n", "12", stdin=PROMPT.encode())
    assert (done.returncode, done.stdout.decode()) == (0, expected)


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_the_final_line_end_of_a_pipe_is_dropped(run: Run, smollm2: Path, end: str) -> None:
    """One, of every command that reads text; --raw keeps it."""
    arguments = ("generate", "--temp", "0", "-n", "12")
    plain = run(*arguments, PROMPT).stdout
    assert run(*arguments, stdin=f"{PROMPT}{end}".encode()).stdout == plain
    for command in (("tokenize",), ("inspect", "--only", "surprise"), ("score", "--top", "0")):
        found = [
            json.loads(run(*command, "--json", *more, stdin=text.encode()).stdout)
            for text, more in (("a", ()), (f"a{end}", ()), (f"a{end}", ("--raw",)), (f"a{end}{end}", ()))
        ]
        assert found[0] == found[1] != found[2] == found[3], command


def test_a_model_that_ends_at_once_points_to_chat(run: Run, tmp_path: Path) -> None:
    asked = ("generate", "What is the capital of France?", "--temp", "0")
    done = run(*asked)
    assert (done.returncode, done.stdout) == (0, b"")
    assert done.stderr.decode().splitlines()[1:] == [HINT]
    assert run(*asked, "--json").stderr.decode().splitlines() == [HINT]
    assert HINT not in run(*asked, "-n", "0").stderr.decode()
    assert HINT not in run("generate", PROMPT, "--temp", "0").stderr.decode()


def test_json(run: Run, smollm2: Path, expected: str) -> None:
    done = run("generate", PROMPT, "--temperature", "0", "-n", "12", "--seed", "7", "--threads", "1", "--json")
    assert (done.returncode, done.stderr) == (0, b"")
    found = json.loads(done.stdout)
    assert found["text"] == expected
    assert len(found["ids"]) == 12
    assert (found["finish_reason"], found["prompt_tokens"], found["seed"]) == ("length", 5, 7)
    assert {"load", "prefill", "decode", "first_token", "decode_rate"} <= set(found["timings"])
    assert found["model"]["path"] == str(smollm2)
    assert (found["model"]["threads"], found["model"]["architecture"]) == (1, "llama")


def test_wrong_option_of_a_process(run: Run) -> None:
    done = run("generate", PROMPT, "--top-p", "2")
    assert (done.returncode, error_line(done)) == (2, "pellucid: --top-p=2.0: expected 0 to 1")


def test_seed_and_sampling_options(run: Run, smollm2: Path) -> None:
    options = ["--temperature", "1.5", "--top-k", "0", "--top-p", "1", "--min-p", "0", "-n", "12", "--seed"]
    texts = [run("generate", PROMPT, *options, seed).stdout.decode() for seed in ("3", "3", "4")]
    assert texts[0] == texts[1] != texts[2]
    with Model.load(smollm2) as model:
        wanted = model.generate(PROMPT, max_tokens=12, temperature=1.5, top_k=0, top_p=1.0, min_p=0.0, seed=3).text
    assert texts[0] == wanted


def test_samplers_of_a_process(run: Run, smollm2: Path) -> None:
    text = "Row, row, row your boat.\nRow, row, row your boat.\nRow, row"
    asked = ("--temperature", "0", "-n", "8")
    with Model.load(smollm2) as model:
        wanted = model.generate(text, temperature=0, max_tokens=8, dry_multiplier=3.0, dry_breakers=("#", "!")).text
        plain = model.generate(text, temperature=0, max_tokens=8).text
        mixed = model.generate(
            text, max_tokens=8, seed=5, xtc_probability=0.5, top_n_sigma=1.5, temperature=1.5,
            samplers=("temperature", "top_n_sigma", "xtc"),
        ).text  # fmt: skip
    done = run("generate", text, *asked, "--dry-multiplier", "3", "--dry-breakers", "#", "--dry-breakers", "!")
    assert done.stdout.decode().rstrip("\n") == wanted.rstrip("\n") != plain.rstrip("\n")
    done = run(
        "generate", text, "-n", "8", "--seed", "5", "--xtc-probability", "0.5", "--top-n-sigma", "1.5",
        "--temperature", "1.5", "--samplers", "temperature, top_n_sigma,xtc",
    )  # fmt: skip
    assert done.stdout.decode().rstrip("\n") == mixed.rstrip("\n")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--samplers", "top_k,topp"), "--samplers[1]='topp': did you mean 'top_p'?"),
        (("--mirostat", "1"), "--mirostat=1: expected 0 (off) or 2"),
        (("--dry-base", "0.5"), "--dry-base=0.5: expected at least 1"),
        (("--xtc-threshold", "2"), "--xtc-threshold=2.0: expected 0 to 1"),
    ],
)
def test_wrong_sampling_options(call: Run, options: tuple[str, ...], says: str) -> None:
    done = call("generate", PROMPT, *options)
    assert (done.returncode, error_line(done)) == (2, f"pellucid: {says}")


def test_guesses_change_no_text(run: Run, smollm2: Path, tmp_path: Path, expected: str) -> None:
    file, other = tmp_path / "prediction.txt", tmp_path / "other.txt"
    file.write_text(expected)
    other.write_bytes(b"\xff")
    asked = ("generate", PROMPT, "--temperature", "0", "-n", "12")
    for more in (
        ("--no-speculate",),
        ("--prediction", str(file)),
        ("--draft", str(smollm2), "--prediction", str(file)),
    ):
        done = run(*asked, *more)
        assert (done.returncode, done.stdout.decode()) == (0, expected)
    assert b"guesses right" not in run(*asked, "--no-speculate", "--prediction", str(file)).stderr
    for wrong in (tmp_path / "absent", other):
        done = run(*asked, "--prediction", str(wrong))
        assert done.returncode == 1 and wrong.name in error_line(done)


def test_stop(run: Run, expected: str) -> None:
    done = run("generate", PROMPT, "--temperature", "0", "-n", "12", "--stop", "never", "--stop", ".")
    assert (done.returncode, done.stdout.decode()) == (0, expected.split(".")[0])
    assert b"; stop]" in done.stderr


def test_context_that_fills(run: Run) -> None:
    done = run("generate", PROMPT, "--temperature", "0", "--context", "8")
    assert done.returncode == 0
    assert b"; context]" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--top-p", "2"], ["--top-p=2.0", "0 to 1"]),
        (["--temperature", "-1"], ["--temperature=-1.0"]),
        (["--top-k", "-1"], ["--top-k=-1"]),
        (["-n", "-1"], ["-n/--max-tokens=-1"]),
        (["-n", "many"], ["-n"]),
        (["--min-p", "nan"], ["--min-p=nan"]),
        (["--temperature", "nan"], ["--temperature=nan: expected a finite number of at least 0"]),
        (["--seed", "-1"], ["--seed=-1"]),
        (["--stop", ""], ["--stop"]),
        (["--threads", "0"], ["--threads=0"]),
        (["--context", "9999999"], ["--context=9999999", "8192"]),
        (["--kv", "q9"], ["--kv='q9'", "f16"]),
        (["--surprise"], ["--surprise"]),
        (["more"], ["more"]),
        (["--isa"], ["--isa", "(see pellucid generate --help)"]),
    ],
)
def test_wrong_options(call: Run, arguments: list[str], words: list[str]) -> None:
    done = call("generate", PROMPT, *arguments)
    assert done.returncode == 2
    message = error_line(done)
    assert all(word in message for word in words), message


def test_weights_that_processes_share(run: Run) -> None:
    arguments = ("generate", PROMPT, "-n", "1", "--json")
    done = run(*arguments, "--share")
    assert done.returncode == 0, done.stderr
    model = json.loads(done.stdout)["model"]
    assert model["shared_why"] == "packed by this load" or "no room" in model["shared_why"]
    wrong = run(*arguments, PELLUCID_SHARE="always")
    assert wrong.returncode == 2 and "PELLUCID_SHARE='always': expected 0 or 1" in error_line(wrong)


def test_empty_prompt_begins_with_bos(run: Run, smollm2: Path) -> None:
    done = run("generate", "", "-n", "4", "--temperature", "0")
    assert done.returncode == 0, done.stderr
    with Model.load(smollm2) as model:
        assert model.tokenizer is not None and model.tokenizer.bos is not None
        expected = model.generate([model.tokenizer.bos], max_tokens=4, temperature=0).text
    assert done.stdout.decode() == expected


def test_no_prompt_on_a_terminal() -> None:
    outer, inner = pty.openpty()
    try:
        done = subprocess.run([*COMMAND, "generate"], stdin=inner, capture_output=True, timeout=60)
    finally:
        os.close(outer)
        os.close(inner)
    assert done.returncode == 2
    assert "no TEXT" in error_line(done)


def test_prompt_too_long(run: Run) -> None:
    done = run("generate", "-", "--context", "100", stdin=b"word " * 300)
    assert done.returncode == 1
    assert "301 tokens needed, 100 available" in error_line(done)


def test_prompt_that_is_not_utf8(run: Run) -> None:
    for done in (run("generate", "-", stdin=b"ab\xffc"), run("generate", b"ab\xffc")):
        assert done.returncode == 1
        assert "byte 0xff at offset 2" in error_line(done)


def test_wrong_isa(run: Run) -> None:
    done = run("generate", PROMPT, "--isa", "abacus")
    assert done.returncode == 2
    assert "--isa: unknown instruction set 'abacus'" in error_line(done) and "scalar" in error_line(done)
    done = run("generate", PROMPT, PELLUCID_ISA="abacus")
    assert (done.returncode, error_line(done)[:36]) == (2, "pellucid: PELLUCID_ISA: unknown inst")


def test_wrong_model(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "no.gguf"
    file.write_bytes(b"GGUF\x03\x00\x00\x00 and nothing of use")
    done = run("generate", PROMPT, "-m", str(file))
    assert done.returncode == 1
    assert str(file) in error_line(done)
    done = run("generate", PROMPT, "-m", "nobody-knows-it")
    assert done.returncode == 1
    assert "'nobody-knows-it'" in error_line(done) and "smollm2-135m" in error_line(done)
    done = run("generate", PROMPT, "-m", str(tmp_path / "absent.gguf"))
    assert done.returncode == 1
    assert "absent.gguf: not found" in error_line(done)


def test_no_terminal_obeys_an_error(call: Run) -> None:
    done = call("generate", "x", "-m", "./\x1b]0;x\x07\nabsent.gguf")
    assert r"\x1b]0;x\x07\nabsent.gguf: not found" in error_line(done)


def test_model_without_tokenizer(run: Run, tiny: Path) -> None:
    done = run("generate", PROMPT, "-m", str(tiny))
    assert done.returncode == 1
    assert "no tokenizer" in error_line(done)


def test_interrupted_while_generating() -> None:
    command = [*COMMAND, "generate", "Once upon a time", "-n", "100000", "--seed", "1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        text = process.stdout.read(20)
        start = time.monotonic()
        process.send_signal(signal.SIGINT)
        more, stderr = process.communicate(timeout=30)
    assert process.returncode == 130
    assert time.monotonic() - start < 5
    assert len(text) == 20
    assert stderr == b""
    (text + more).decode()  # whole characters


def test_interrupted_while_reading_the_prompt() -> None:
    long = "All work and no play makes Jack a dull boy. " * 700
    command = [*COMMAND, "generate", "-", "--isa", "scalar", "--threads", "1"]  # seconds
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdin is not None
        process.stdin.write(long.encode())
        process.stdin.close()
        used, until = Path(f"/proc/{process.pid}/stat"), time.monotonic() + 60
        while time.monotonic() < until:  # until it has computed for longer than Python and the model take to load
            user, system = used.read_text().rpartition(")")[2].split()[11:13]
            if int(user) + int(system) > 4 * os.sysconf("SC_CLK_TCK"):
                break
            time.sleep(0.05)
        assert process.poll() is None
        start = time.monotonic()
        process.send_signal(signal.SIGINT)
        process.wait(30)
        assert time.monotonic() - start < 5
        assert process.returncode == 130
        assert process.stdout is not None and process.stdout.read() == b""
        assert process.stderr is not None and process.stderr.read() == b""


def test_reader_that_goes() -> None:
    command = [*COMMAND, "generate", "Once upon a time", "-n", "100000"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.read(5)
        process.stdout.close()
        stderr = process.stderr.read()
        assert process.wait(30) == 0
    assert stderr == b""


def test_output_that_cannot_be_written() -> None:
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [*COMMAND, "generate", PROMPT, "-n", "2"], stdout=full, stderr=subprocess.PIPE, timeout=60
        )
    assert done.returncode == 1
    assert done.stderr == b"pellucid: no space left on device\n"


def test_output_in_another_encoding(run: Run) -> None:
    done = run("generate", "Ünïcödé", "-n", "3", PYTHONIOENCODING="ascii")
    assert done.returncode == 0
    assert done.stdout.isascii()


def on_terminal(*arguments: str, interrupt: bool = False, **environment: str) -> tuple[int, str]:
    """(exit code, everything written to the terminal)."""
    process, terminal = pty.fork()
    if process == 0:
        os.environ.update(environment)
        os.execv(COMMAND[0], [*COMMAND, *arguments])
    seen = b""
    try:
        while True:
            seen += os.read(terminal, 1 << 16)
            if interrupt and len(seen) > 20:
                os.write(terminal, b"\x03")
                interrupt = False
    except OSError:  # the other end has closed
        pass
    finally:
        os.close(terminal)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), seen.decode()


def test_terminal(expected: str) -> None:
    code, seen = on_terminal("generate", PROMPT, "--temperature", "0", "-n", "12", NO_COLOR="1", TERM="xterm")
    lines = seen.replace("\r\n", "\n")
    assert code == 0
    assert lines.rstrip().endswith("length]")
    # Timings on a line of their own, after the text.
    assert expected.rstrip("\n") + "\n[load" in lines


def test_terminal_interrupted() -> None:
    code, seen = on_terminal("generate", "Once upon a time", "-n", "100000", interrupt=True)
    assert code == 130
    assert seen.endswith("\n")
    assert "Traceback" not in seen
