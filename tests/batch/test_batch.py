"""`pellucid batch`: rows in, lines out, each exactly once whatever happens in between."""

from __future__ import annotations

import errno
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pellucid import Model
from pellucid.batch.run import run
from pellucid.batch.source import Row, Shard, read
from pellucid.batch.target import Target
from pellucid.cli import main
from pellucid.errors import PellucidError

Rows = Callable[..., Path]


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of a few kilobytes, without a tokenizer."""
    from tests.reference.tiny import TINY, write_gguf

    return write_gguf(TINY[0], tmp_path_factory.mktemp("tiny") / "tiny.gguf")


def write(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def lines(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def by_id(path: Path) -> dict[Any, Any]:
    found = {line.get("id", line.get("custom_id")): line for line in lines(path)}
    assert len(found) == len(lines(path))
    return found


def ids_rows(n: int) -> list[dict[str, Any]]:
    rng = random.Random(n)
    return [
        {"id": f"row {i}", "prompt_ids": [rng.randrange(40) for _ in range(rng.randint(1, 20))], "max_tokens": 4}
        for i in range(n)
    ]


def command(*arguments: Any) -> list[str]:
    return [sys.executable, "-m", "pellucid", "batch", *map(str, arguments)]


def test_every_kind_of_row(smollm2: Path, tmp_path: Path) -> None:
    messages = [{"role": "user", "content": "Name a colour"}]
    body = {"model": "m", "messages": messages, "max_tokens": 5, "n": 2, "seed": 3}
    completion = {"prompt": "Once", "max_tokens": 3, "logprobs": 2}
    rows: list[dict[str, Any]] = [
        {"id": "prompt", "prompt": "The capital of France is", "max_tokens": 3, "temperature": 0},
        {"id": "chat", "messages": messages, "max_tokens": 4, "seed": 5},
        {"custom_id": "request", "method": "POST", "url": "/v1/chat/completions", "body": body},
        {
            "custom_id": "completion",
            "url": "/v1/completions",
            "body": completion,
        },
        {"text": "without an id"},
    ]
    source, target = write(tmp_path / "in.jsonl", rows), tmp_path / "out.jsonl"
    assert main(["batch", str(source), str(target), "-m", str(smollm2), "-n", "6"]) == 0
    found = by_id(target)
    with Model.load(smollm2) as model:
        assert found["prompt"]["text"] == model.generate(rows[0]["prompt"], max_tokens=3, temperature=0).text
        chat = model.chat(messages, max_tokens=4, seed=5)
        assert found["chat"]["text"] == chat.text and found["chat"]["seed"] == 5
        answer = found["request"]["response"]
        assert answer["status_code"] == 200 and answer["body"]["object"] == "chat.completion"
        expected = [model.chat(messages, max_tokens=5, seed=seed).text for seed in (3, 4)]
        assert [choice["message"]["content"] for choice in answer["body"]["choices"]] == expected
        assert answer["body"]["usage"]["completion_tokens"] == 10
        assert found["completion"]["response"]["body"]["choices"][0]["logprobs"]["tokens"]
        line = found[5]
        assert line["new_tokens"] <= 6
        assert line["text"] == model.generate("without an id", max_tokens=6, seed=line["seed"]).text


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"promt": "x"}, "expected one of the keys"),
        ({"prompt": "x", "messages": []}, "expected one of the keys"),
        ({"prompt": "x", "temperature": "hot"}, "temperature"),
        ({"prompt": "x", "max_tokens": -1}, "max_tokens"),
        ({"prompt": "x", "colour": "blue"}, "colour"),
        ({"prompt": "x" * 100_000}, "tokens"),
        ({"prompt": {"a": 1}}, "prompt"),
        ({"messages": [{"role": "user"}]}, "messages[0]"),
        ({"body": 3}, "body: expected an object"),
        ({"body": {"messages": []}, "url": "/v1/embeddings"}, "url"),
        ({"body": {"prompt": "x", "echo": True}, "url": "/v1/completions"}, "echo"),
        ({"body": {"messages": "x"}}, "messages"),
    ],
)
def test_wrong_rows_are_lines_and_the_others_go_on(
    row: dict[str, Any], says: str, smollm2: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"id": 1, **row}, {"id": 2, "prompt": "x", "max_tokens": 1}]
    source, target = write(tmp_path / "in.jsonl", rows), tmp_path / "out.jsonl"
    options = ["-m", str(smollm2), "--context", "512"]
    assert main(["batch", str(source), str(target), *options]) == 0
    found = by_id(target)
    told = found[1]["error"] or found[1]["response"]["body"]["error"]
    assert says in told["message"] and "text" in found[2]
    assert "1 of them errors" in capsys.readouterr().err
    assert main(["batch", str(source), str(tmp_path / "other.jsonl"), *options, "--errors", "stop"]) == 1
    told_by_error = capsys.readouterr().err
    assert "line 1: " in told_by_error and says in told_by_error


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (b'{"id": 1, "prompt_ids": [1]}\nnot json\n', "line 2: expected an object of JSON"),
        (b"[1]\n", "line 1: expected an object of JSON, not list"),
        (b"[" * 100_000 + b"\n", "line 1: expected an object of JSON"),
        (b'{"id": [1], "prompt_ids": [1]}\n', "id: expected a text or an integer, not list"),
        (b'{"id": true, "prompt_ids": [1]}\n', "id: expected a text or an integer, not bool"),
        (b'{"id": 1, "custom_id": 1, "prompt_ids": [1]}\n', "not both"),
        (b'{"id": "' + b"x" * 513 + b'"}\n', "more than 512 characters"),
        (b'{"id": 7, "prompt_ids": [1]}\n{"id": "7", "prompt_ids": [1]}\n', "line 2: another row has its id"),
        (b'{"prompt_ids": [1]}\n\n{"id": 1, "prompt_ids": [1]}\n', "line 3: another row has its id"),
        (b"\xff\xfe{}\n", "line 1: expected an object of JSON"),
    ],
)
def test_files_that_are_not_rows(
    text: bytes, says: str, tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "in.jsonl"
    source.write_bytes(text)
    assert main(["batch", str(source), str(tmp_path / "out.jsonl"), "-m", str(tiny), "-n", "1"]) == 1
    assert says in " ".join(capsys.readouterr().err.split())


def test_what_is_there_is_kept(tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, target = write(tmp_path / "in.jsonl", ids_rows(12)), tmp_path / "out.jsonl"
    done = ["batch", str(source), str(target), "-m", str(tiny)]
    assert main(done) == 0
    whole = target.read_bytes()
    assert main(done) == 0 and target.read_bytes() == whole
    assert "12 done before, 0 now" in capsys.readouterr().err
    first = whole.index(b"\n") + 1
    for torn in (
        whole[:-1],
        whole[:-20],
        whole + b'{"id":"row',
        whole + b"{",
        whole + b"\0" * 700,
        whole[:-3] + b"\0\0\0",
        whole + b"\n\0\0\n\0",
    ):
        target.write_bytes(torn)
        assert main(done) == 0
        assert sorted(target.read_bytes().splitlines()) == sorted(whole.splitlines())
    for blank in (b"\n", b"\r\n", b"\n\0\0\n"):  # an empty line is no end
        target.write_bytes(spaced := whole[:first] + blank + whole[first:])
        assert main(done) == 0 and target.read_bytes() == spaced
    assert "12 done before, 0 now" in capsys.readouterr().err


def test_files_of_others_are_left_alone(tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, target = write(tmp_path / "in.jsonl", ids_rows(2)), tmp_path / "out.jsonl"
    for text in (
        b"dear diary\n",
        b"dear diary",
        b"\ndear diary\nmore\n",
        b'{"name": 1}\n',
        b'{"name": "package", "version": 1}',
        b"{\n",
        b"[1]\n" * 3,
        b'{"id": [1]}\nmore\n',
        b'{"id":1}\n\0\0{"id":2}\n',
        b'{"id":1}\n\nmore',
        b"7",
        b'"id"',
    ):
        target.write_bytes(text)
        assert main(["batch", str(source), str(target), "-m", str(tiny)]) == 1
        assert target.read_bytes() == text
        assert "expected an object with an id" in " ".join(capsys.readouterr().err.split())
    assert main(["batch", str(source), str(tmp_path), "-m", str(tiny)]) == 1
    assert main(["batch", str(source), "/dev/null", "-m", str(tiny)]) == 1
    assert main(["batch", str(source), str(source), "-m", str(tiny)]) == 2
    assert "expected another file" in capsys.readouterr().err


def test_lines_are_written_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "out.jsonl"
    path.write_bytes(b'{"id":0}')  # whole, but for its end
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", lambda fd: synced.append(os.fstat(fd).st_size))
    with Target(str(path)) as target:
        target.write({"id": 1})
        assert lines(path) == [{"id": 0}, {"id": 1}] and not synced
        later = time.monotonic() + 1.5
        monkeypatch.setattr(time, "monotonic", lambda: later)
        target.write({"id": 2})
        assert synced == [path.stat().st_size]
        target.write({"id": 3})
        assert len(lines(path)) == 4 and len(synced) == 1
    assert synced[1:] == [path.stat().st_size]


def test_a_failed_sync_takes_back_what_may_be_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "out.jsonl"

    def fail(fd: int) -> None:
        raise OSError(errno.EIO, "no")

    with Target(str(path)) as target:
        target.write({"id": 1})
        target.flush()
        target.write({"id": 2})
        monkeypatch.setattr(os, "fsync", fail)
        with pytest.raises(PellucidError, match="out.jsonl: input/output error"):
            target.flush()
    assert lines(path) == [{"id": 1}]


def test_one_process_writes(tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, target = write(tmp_path / "in.jsonl", ids_rows(2)), tmp_path / "out.jsonl"
    with Target(str(target)):
        assert main(["batch", str(source), str(target), "-m", str(tiny)]) == 1
    assert "another process is writing this file" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("task", ["generate", "score"])
def test_shards_are_the_whole(task: str, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, whole = write(tmp_path / "in.jsonl", ids_rows(60)), tmp_path / "whole.jsonl"
    common = ["-m", str(tiny), "--task", task, "--seed", "9"]
    assert main(["batch", str(source), str(whole), *common]) == 0
    parts = []
    for k in range(4):
        for name, number in (("ID", k + 5), ("MIN", 5), ("MAX", 8), ("COUNT", 4)):
            monkeypatch.setenv(f"SLURM_ARRAY_TASK_{name}", str(number))
        shard = f"{k}/4" if k % 2 else "/4"
        assert main(["batch", str(source), str(tmp_path / "{shard}.jsonl"), *common, "--shard", shard]) == 0
        parts += (tmp_path / f"{k}.jsonl").read_bytes().splitlines()
        assert len(parts) >= k
    assert sorted(parts) == sorted(whole.read_bytes().splitlines())


@pytest.mark.parametrize("shard", ["4/4", "-1/4", "1", "/4", "a/b", "0/0"])
def test_wrong_shards(shard: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write(tmp_path / "in.jsonl", [])
    assert main(["batch", str(source), str(tmp_path / "out"), "--shard", shard]) == 2
    assert "--shard" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("array", "count", "share"),
    [
        ([0, 1, 2, 3], 4, [0, 1, 2, 3]),
        ([1, 2, 3, 4], 4, [0, 1, 2, 3]),
        ([0, 3], 4, [0, 3]),  # some of them again
        ([0, 1, 2, 3, 4], 4, [0, 1, 2, 3, None]),
        ([3, 5], 8, [None, None]),  # of 0 to 7, or of 1 to 8
        ([1, 2, 3], 4, [None] * 3),
        ([1, 3, 5, 7], 4, [None] * 4),
    ],
)
def test_shares_of_an_array(
    array: list[int],
    count: int,
    share: list[int | None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A share that may be another task's is refused: it would be done twice, and one not at all."""
    source = write(tmp_path / "in.jsonl", [])
    for name, number in (("MIN", array[0]), ("MAX", array[-1]), ("COUNT", len(array))):
        monkeypatch.setenv(f"SLURM_ARRAY_TASK_{name}", str(number))
    for task, expected in zip(array, share, strict=True):
        monkeypatch.setenv("SLURM_ARRAY_TASK_ID", str(task))
        given = ["batch", str(source), str(tmp_path / f"{task} {{shard}}"), "--shard", f"/{count}", "-m", "none.gguf"]
        assert main(given) == (1 if expected is not None else 2)  # there is no such model
        told = " ".join(capsys.readouterr().err.split())
        assert ("none.gguf" if expected is not None else "expected K/") in told
        made = [path.name for path in tmp_path.glob(f"{task} *")]
        assert made == ([] if expected is None else [f"{task} {expected}"])
    monkeypatch.setenv("JOB_COMPLETION_INDEX", "2")  # of Kubernetes
    assert main(["batch", str(source), str(tmp_path / "{shard}"), "--shard", "/4", "-m", "none.gguf"]) == 1
    assert (tmp_path / "2").exists()


def kills(source: Path, target: Path, tiny: Path, n: int, seed: int) -> int:
    """Starts it until it ends by itself, and kills it n times before -> how often it was killed in the middle."""
    rng, killed = random.Random(seed), 0
    for _ in range(n):
        with subprocess.Popen(command(source, target, "-m", tiny), stderr=subprocess.DEVNULL) as process:
            before = target.stat().st_size if target.exists() else 0
            end = time.monotonic() + 60
            while process.poll() is None and time.monotonic() < end:
                if target.exists() and target.stat().st_size > before + rng.randint(0, 3000):
                    break
                time.sleep(0.002)
            killed += process.poll() is None
            process.send_signal(signal.SIGKILL)
    assert subprocess.run(command(source, target, "-m", tiny), capture_output=True).returncode == 0
    return killed


@pytest.mark.parametrize(("n", "rows"), [(4, 400), pytest.param(50, 2000, marks=pytest.mark.nightly)])
def test_killed_at_any_moment(n: int, rows: int, tiny: Path, tmp_path: Path) -> None:
    source, target, calm = write(tmp_path / "in.jsonl", ids_rows(rows)), tmp_path / "out", tmp_path / "calm"
    assert main(["batch", str(source), str(calm), "-m", str(tiny)]) == 0
    assert kills(source, target, tiny, n, rows) > 0
    assert len(by_id(target)) == rows
    assert sorted(target.read_bytes().splitlines()) == sorted(calm.read_bytes().splitlines())


def test_a_full_disk(tiny: Path, tmp_path: Path) -> None:
    source, target = write(tmp_path / "in.jsonl", ids_rows(300)), tmp_path / "out.jsonl"
    code = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (9000, 9000))\n"
        "from pellucid.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    arguments = ["batch", source, target, "-m", tiny]
    done = subprocess.run([sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode == 1 and "file too large" in done.stderr.lower() and len(done.stderr.splitlines()) == 1
    assert target.read_bytes() == b"" or target.read_bytes().endswith(b"\n")
    assert main(list(map(str, arguments))) == 0
    assert len(by_id(target)) == 300


def test_ctrl_c_keeps_what_is_done(tiny: Path, tmp_path: Path) -> None:
    source, target = write(tmp_path / "in.jsonl", ids_rows(20_000)), tmp_path / "out.jsonl"
    with subprocess.Popen(command(source, target, "-m", tiny), stderr=subprocess.PIPE, text=True) as process:
        while not (target.exists() and target.stat().st_size > 2000):
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        assert process.stderr is not None
        assert "Traceback" not in process.stderr.read()
    assert process.returncode == 130
    assert 20 < len(by_id(target)) < 20_000


def test_columns(smollm2: Path, tmp_path: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    table = pyarrow.table(
        {"id": [4, 5, 6], "prompt": ["One", "Two", "Three"], "label": ["a", "b", None], "max_tokens": [2, None, 3]}
    )
    source, target = tmp_path / "in.parquet", tmp_path / "out.jsonl"
    parquet.write_table(table, source)
    assert main(["batch", str(source), str(target), "-m", str(smollm2), "-n", "4", "--temperature", "0"]) == 0
    assert {i: line["new_tokens"] for i, line in by_id(target).items()} == {4: 2, 5: 4, 6: 3}
    source.write_bytes(b"PAR1 no")
    with pytest.raises(PellucidError, match="expected a Parquet file"):
        list(read(str(source), Shard()))


def test_scores_and_standard_input(smollm2: Path, tmp_path: Path) -> None:
    target = tmp_path / "out.jsonl"
    text = b'{"id": "a", "text": "The sky is blue."}\n{"id": "b", "text": 5}\n{"id": "c", "text": "A fish."}\n'
    done = subprocess.run(
        command("-", target, "-m", smollm2, "--task", "score", "--json"), input=text, capture_output=True
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["errors"] == 1
    found = by_id(target)
    with Model.load(smollm2) as model:
        for id, content in (("a", "The sky is blue."), ("c", "A fish.")):
            assert found[id]["logprob"] == model.score(content).total
    assert "error" in found["b"]


def test_embeddings(tmp_path: Path) -> None:
    class Embedder:
        def embed(self, texts: list[str]) -> list[Any]:
            import numpy as np

            if any(not text for text in texts):
                raise ValueError("texts[0] is empty")
            return [np.array([len(text), 1.5], np.float32) for text in texts]

    rows = [Row(i, "id", f"row {i}", {"text": "x" * (i % 3)}) for i in range(7)]
    model: Any = Embedder()
    with Target(str(tmp_path / "out.jsonl")) as target:
        counts = run(model, rows, target, "embed", at_once=3)
    found = by_id(tmp_path / "out.jsonl")
    assert counts.errors == 3 and counts.done == 7
    assert [found[i].get("embedding") for i in range(7)] == [None, [1, 1.5], [2, 1.5]] * 2 + [None]


def test_what_no_row_can_change_ends_the_run(smollm2: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A model without a chat template, or without a known way to make embeddings: no row is done with an error, so that
    the same command with the option does them all."""
    bare = tmp_path / "bare.gguf"
    raw = smollm2.read_bytes()
    assert raw.count(b"tokenizer.chat_template") == 1
    bare.write_bytes(raw.replace(b"tokenizer.chat_template", b"tokenizer.chat_templute"))
    source, target = write(tmp_path / "in.jsonl", [{"id": 1, "text": "Hi"}, {"id": 2, "text": "Ho"}]), tmp_path / "out"
    (template := tmp_path / "t.jinja").write_text("{{ messages[0].content }}")
    for model, task, option in (
        (bare, "chat", ["--template", str(template)]),
        (smollm2, "embed", ["--pooling", "mean"]),
    ):
        command = ["batch", str(source), str(target), "-m", str(model), "--task", task, "-n", "2"]
        assert main(command) != 0
        assert option[0] in capsys.readouterr().err and target.read_bytes() == b""
        assert main([*command, *option]) == 0
        assert all("error" not in line for line in by_id(target).values())
        assert main(["batch", str(source), str(target), *option, "--task", "score"]) == 2
        target.unlink()


def test_memory_is_bounded_by_at_once(tiny: Path, tmp_path: Path) -> None:
    taken = given = 0

    def endless() -> Iterator[Row]:
        nonlocal taken
        for i in range(500):
            taken += 1
            assert taken - given <= 8 + 1
            yield Row(i, "id", "", {"prompt_ids": [1 + i % 30], "max_tokens": 2})

    def progress(counts: Any) -> None:
        nonlocal given
        given = counts.done

    with Model.load(tiny) as model, Target(str(tmp_path / "out.jsonl")) as target:
        assert run(model, endless(), target, "generate", at_once=8, progress=progress).done == 500


def test_errors_that_are_no_rows(tiny: Path, tmp_path: Path) -> None:
    model = Model.load(tiny)
    model.close()
    with Target(str(tmp_path / "out.jsonl")) as target, pytest.raises(PellucidError):
        run(model, [Row(1, "id", "row 1", {"prompt_ids": [1]})], target, "generate")
    assert os.path.getsize(tmp_path / "out.jsonl") == 0
