"""`pellucid batch`: rows in, lines out, each exactly once whatever happens in between."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pellucid import Model
from pellucid.batch.run import run
from pellucid.batch.source import Row, Shard, read
from pellucid.batch.target import Target
from pellucid.cli import main
from pellucid.errors import PellucidError
from tests.batch.rows import MESSAGES, by_id, command, lines, write

DOCS = Path(__file__).resolve().parents[2] / "docs"


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
        ({"prompt": "x", "cancel": True}, "cancel: belongs to the whole run"),
        ({"prompt": "x", "logit_bias": {"x": 1}}, "logit_bias"),
        ({"prompt": "x", "body": {"prompt": "x"}}, "expected one of the keys"),
        ({"prompt": "x" * 100_000}, "tokens"),
        ({"prompt": {"a": 1}}, "prompt: expected a text or a list of token ids, not dict"),
        ({"text": 5}, "text: expected a text or a list of token ids, not int"),
        ({"text": ["A", "B"]}, "text[0]: expected a token id, not str"),
        ({"prompt_ids": "A"}, "prompt_ids: expected a list of token ids, not str"),
        ({"messages": 5}, "messages"),
        ({"messages": [{"role": "user"}]}, "messages[0]"),
        ({"body": 3}, "body: expected an object"),
        ({"body": {"messages": []}, "url": "/v1/embeddings"}, "url"),
        ({"body": {"prompt": "x", "echo": True}, "url": "/v1/completions"}, "echo"),
        ({"body": {"messages": "x"}}, "messages"),
        ({"body": {"messages": MESSAGES, "max_completion_tokens": -1}}, "max_completion_tokens=-1"),  # the row's name
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


def test_options_of_the_command_and_of_rows(tiny: Path, tmp_path: Path) -> None:
    """Those of rows win; a request that says nothing has the command's."""
    ids = [1, 2, 3]
    limits: list[dict[str, Any]] = [
        {},
        {"max_tokens": None},
        {"max_tokens": 2},
        {"max_completion_tokens": 1},
        {"n_predict": 5},
    ]
    rows: list[dict[str, Any]] = [
        {"id": i, "url": "/v1/completions", "body": {"prompt": ids, **limit}} for i, limit in enumerate(limits)
    ]
    rows += [
        {
            "id": 5,
            "url": "/v1/completions",
            "body": {"prompt": ids, "n_predict": -1},
        },  # no limit, in llama-server's way
        {"id": 6, "prompt_ids": ids},
        {"id": 7, "prompt_ids": ids, "max_tokens": 1, "logit_bias": {"5": 100}, "logprobs": 1},
    ]
    source, target = write(tmp_path / "in.jsonl", rows), tmp_path / "out.jsonl"
    assert main(["batch", str(source), str(target), "-m", str(tiny), "-n", "3", "--context", "20"]) == 0
    found = by_id(target)
    new = [found[i]["response"]["body"]["usage"]["completion_tokens"] for i in range(6)]
    assert new[:5] == [3, 3, 2, 1, 5] and new[5] > 15
    assert found[6]["new_tokens"] == 3
    assert [token["id"] for token in found[7]["logprobs"]] == [5]


def test_rows_with_errors_are_done_again(tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By the command that the documentation gives."""
    body = {"prompt": [1], "max_tokens": 1}
    wrong = [
        {"id": 1, "prompt_ids": [1], "top_k": "x"},
        {"id": 2, "url": "/v1/completions", "body": {**body, "n": "x"}},
    ]
    right: list[dict[str, Any]] = [
        {"id": 'a "error":{', "prompt_ids": [1], "max_tokens": 1},
        {"id": 4, "url": "/v1/completions", "body": body},
    ]
    source, target = write(tmp_path / "prompts.jsonl", wrong + right), tmp_path / "answers.jsonl"
    done = ["batch", str(source), str(target), "-m", str(tiny)]
    for says in ("0 done before, 4 now, 2 of them errors", "4 done before, 0 now"):
        assert main(done) == 0
        assert says in capsys.readouterr().err
    (recipe,) = re.findall(r"^grep -av .+$", (DOCS / "batch.md").read_text(encoding="utf-8"), re.M)
    with target.open("ab") as file:
        file.write(b"\0\0\0\n")  # as a machine that lost power leaves it
    subprocess.run(["sh", "-c", recipe], cwd=tmp_path, check=True)
    assert main(done) == 0
    assert "2 done before, 2 now" in capsys.readouterr().err


def test_the_target_is_no_stream(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["batch", str(write(tmp_path / "in.jsonl", [])), "-", "-m", str(tiny)]) == 2
    assert not Path("-").exists()


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
    both = {"text": ["A", None], "prompt": [None, "B"]}
    parquet.write_table(pyarrow.table(both), source)  # each row has one
    target.unlink()
    assert main(["batch", str(source), str(target), "-m", str(smollm2), "-n", "1"]) == 0
    assert all("text" in line for line in by_id(target).values())
    far = pyarrow.array([2**31 - 1], pyarrow.date32())  # a day that Python has no date for
    parquet.write_table(pyarrow.table({"prompt": ["A"], "day": far}), source)
    with pytest.raises(PellucidError, match="in.parquet"):
        list(read(str(source), Shard()))
    source.write_bytes(b"PAR1 no")
    with pytest.raises(PellucidError, match="expected a Parquet file"):
        list(read(str(source), Shard()))


def test_columns_that_are_named_as_options_are(
    smollm2: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Those of chats alone are left alone in a row that is none; `--columns` leaves out all that it does not name."""
    import pyarrow
    from pyarrow import parquet

    source, target = tmp_path / "in.PARQUET", tmp_path / "out.jsonl"
    names = ("tools", "add_generation_prompt", "enable_thinking", "template_options", "tool_choice")
    parquet.write_table(pyarrow.table({"prompt": ["One"], **{name: ["x"] for name in names}}), source)
    call = ["batch", str(source), str(target), "-m", str(smollm2), "-n", "1"]
    assert main(call) == 0 and "text" in by_id(target)[1]
    columns = {"id": [7], "prompt": ["One"], "text": ["Two"], "schema": ["CREATE TABLE t"], "choice": ["A"]}
    parquet.write_table(pyarrow.table({**columns, "max_tokens": [2]}), source)
    assert main([*call, "--columns", "prompt", "--columns", "max_tokens"]) == 0
    assert by_id(target)[7]["new_tokens"] == 2
    capsys.readouterr()
    assert main([*call, "--columns", "promt"]) == 1
    said = " ".join(capsys.readouterr().err.split())
    assert "has no column 'promt'; its columns: id, prompt, text, schema, choice, max_tokens" in said


def test_columns_of_lines_and_a_target_that_is_a_table(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = str(write(tmp_path / "in.jsonl", [{"prompt_ids": [1]}]))
    assert main(["batch", source, str(tmp_path / "out.jsonl"), "-m", str(tiny), "--columns", "id"]) == 2
    assert "--columns: applies only to a .parquet file" in capsys.readouterr().err
    assert main(["batch", source, str(tmp_path / "out.Parquet"), "-m", str(tiny)]) == 2
    assert "expected a name for lines of JSON" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.jsonl"]


@pytest.mark.parametrize("task", ["generate", "score"])
@pytest.mark.parametrize(
    ("columns", "says"),
    [
        ({"prompt": ["A", "B"], "text": ["C", "D"]}, "in.parquet, row 1 has the columns"),
        ({"question": ["A", "B"]}, "row 1 has none of the columns for this task: expected one of the keys"),
    ],
)
def test_columns_that_are_not_clear_end_the_run(
    task: str,
    columns: dict[str, list[str]],
    says: str,
    tiny: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    import pyarrow
    from pyarrow import parquet

    source, target = tmp_path / "in.parquet", tmp_path / "out.jsonl"
    parquet.write_table(pyarrow.table(columns), source)
    assert main(["batch", str(source), str(target), "-m", str(tiny), "--task", task]) == 1
    assert says in " ".join(capsys.readouterr().err.split()) and target.read_bytes() == b""


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


@pytest.mark.parametrize("task", ["score", "embed", "chat"])
@pytest.mark.parametrize("table", [False, True])
def test_numbers_are_no_texts(task: str, table: bool, smollm2: Path, tmp_path: Path) -> None:
    """Several of them together look like one prompt of token ids."""
    import pyarrow
    from pyarrow import parquet

    if table:
        source = tmp_path / "in.parquet"
        parquet.write_table(pyarrow.table({"id": [0, 1, 2], "text": [1000, 1001, 1002]}), source)
    else:
        source = write(tmp_path / "in.jsonl", [{"id": i, "text": 1000 + i} for i in range(3)])
    target = tmp_path / "out.jsonl"
    pooling = ["--pooling", "mean"] if task == "embed" else []
    assert main(["batch", str(source), str(target), "-m", str(smollm2), "--task", task, *pooling]) == 0
    expected = "a text" if task == "chat" else "a text or a list of token ids"
    error = {"type": "WrongType", "message": f"text: expected {expected}, not int"}
    assert by_id(target) == {i: {"id": i, "error": error} for i in range(3)}


def test_what_is_in_lists_of_token_ids(smollm2: Path, tmp_path: Path) -> None:
    """A row that is wrong does not touch those beside it."""
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"text": ["A", "B"]}, "text[0]: expected a token id, not str"),
        ({"prompt": [1, True]}, "prompt[1]: expected a token id, not bool"),
        ({"input": [1.0]}, "input[0]: expected a token id, not float"),
        ({"input": [[1, 2], [3]]}, "input[0]: expected a token id, not list"),
        ({"prompt_ids": [None]}, "prompt_ids[0]: expected a token id, not NoneType"),
        ({"prompt_ids": "A"}, "prompt_ids: expected a list of token ids, not str"),
        ({"text": []}, "text is empty: expected at least one token"),
        ({"text": {"A": 1}}, "text: expected a text or a list of token ids, not dict"),
    ]
    rows: list[dict[str, Any]] = [{"id": "text", "text": "A fish."}, {"id": "ids", "prompt_ids": [5, 6, 7]}]
    rows += [{"id": i, **row} for i, (row, _) in enumerate(wrong)]
    source, target = write(tmp_path / "in.jsonl", rows), tmp_path / "out.jsonl"
    command = ["batch", str(source), str(target), "-m", str(smollm2), "--task", "embed", "--pooling", "mean"]
    assert main(command) == 0
    found = by_id(target)
    with Model.load(smollm2) as model:
        assert [found["text"]["embedding"]] == model.embed(["A fish."], pooling="mean").tolist()
        assert [found["ids"]["embedding"]] == model.embed([[5, 6, 7]], pooling="mean").tolist()
    assert [found[i]["error"]["message"] for i in range(len(wrong))] == [says for _, says in wrong]


@pytest.mark.parametrize("at_once", [1, 3, 32])
def test_a_row_of_several_choices_fails_once(at_once: int, tiny: Path, tmp_path: Path) -> None:
    """However few of its choices have begun when the first one fails."""
    url = "/v1/completions"
    rows = [
        Row("wrong", "custom_id", "row 1", {"url": url, "body": {"prompt": [1] * 10_000, "n": 5}}),
        Row("right", "custom_id", "row 2", {"url": url, "body": {"prompt": [1], "n": 5, "max_tokens": 1}}),
    ]
    with Model.load(tiny) as model, Target(str(tmp_path / "out.jsonl")) as target:
        counts = run(model, rows, target, "generate", at_once=at_once)
    assert (counts.rows, counts.done, counts.errors) == (2, 2, 1)
    found = by_id(tmp_path / "out.jsonl")  # each once
    assert found["wrong"]["response"]["status_code"] == 400
    assert len(found["right"]["response"]["body"]["choices"]) == 5


def test_token_ids_of_completions(smollm2: Path, tmp_path: Path) -> None:
    body = {"prompt": "Once", "max_tokens": 3, "temperature": 0}
    rows = [
        {"id": 1, "url": "/v1/completions", "body": {**body, "return_token_ids": True}},
        {"id": 2, "url": "/v1/completions", "body": body},
    ]
    source, target = write(tmp_path / "in.jsonl", rows), tmp_path / "out.jsonl"
    assert main(["batch", str(source), str(target), "-m", str(smollm2)]) == 0
    with_ids, without = (by_id(target)[i]["response"]["body"]["choices"][0] for i in (1, 2))
    with Model.load(smollm2) as model:
        assert with_ids == {**without, "token_ids": model.generate("Once", max_tokens=3, temperature=0).ids}


def test_a_fifo_is_opened_once(tiny: Path, tmp_path: Path) -> None:
    """Whoever writes it may have ended when it is opened again."""
    fifo, target = tmp_path / "fifo", tmp_path / "out.jsonl"
    os.mkfifo(fifo)
    write(tmp_path / "in.jsonl", [{"prompt_ids": [1]}, {"prompt_ids": [2]}])
    with subprocess.Popen(["sh", "-c", 'cat "$0" > "$1"', tmp_path / "in.jsonl", fifo]) as writer:
        try:
            done = subprocess.run(command(fifo, target, "-m", tiny, "-n", "1"), capture_output=True, timeout=120)
        finally:
            writer.kill()
    assert done.returncode == 0, done.stderr
    assert sorted(by_id(target)) == [1, 2]


@pytest.mark.parametrize("name", ["absent.jsonl", "folder"])
def test_what_cannot_be_read_is_told_before_the_model_is_loaded(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "folder").mkdir()
    assert main(["batch", str(tmp_path / name), str(tmp_path / "out.jsonl"), "-m", str(tmp_path / "no.gguf")]) != 0
    assert name in capsys.readouterr().err.replace("\n", "")


def test_embeddings(tmp_path: Path) -> None:
    class Embedder:
        tokenizer = None

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
    """A model without a chat template, or with a broken one, or without a known way to make embeddings, a wrong option:
    no row is done with an error, so that the same command with the option does them all."""
    raw = smollm2.read_bytes()
    changed = {"bare": (b"tokenizer.chat_template", b"tokenizer.chat_templute"), "marred": (b"{% for ", b"{% fur ")}
    for name, (old, new) in changed.items():
        assert raw.count(old) == 1
        (tmp_path / f"{name}.gguf").write_bytes(raw.replace(old, new))
    bare, marred = (tmp_path / f"{name}.gguf" for name in changed)
    source, target = write(tmp_path / "in.jsonl", [{"id": 1, "text": "Hi"}, {"id": 2, "text": "Ho"}]), tmp_path / "out"
    (template := tmp_path / "t.jinja").write_text("{{ messages[0].content }}")
    (broken := tmp_path / "b.jinja").write_text("{% if %}")
    for model, task, wrong, says, option in (
        (bare, "chat", [], "--template", ["--template", str(template)]),
        (marred, "chat", [], "the chat template is broken", ["--template", str(template)]),
        (smollm2, "chat", ["--template", str(broken)], "template", ["--template", str(template)]),
        (smollm2, "embed", [], "--pooling", ["--pooling", "mean"]),
        (smollm2, "generate", ["--regex", "("], "regex", ["--regex", "a"]),
    ):
        command = ["batch", str(source), str(target), "-m", str(model), "--task", task, "-n", "2"]
        assert main([*command, *wrong]) != 0
        assert says in capsys.readouterr().err and target.read_bytes() == b""
        assert main([*command, *option]) == 0
        assert all("error" not in line for line in by_id(target).values())
        if task != "generate":
            assert main(["batch", str(source), str(target), *option, "--task", "score"]) == 2
        target.unlink()


@pytest.mark.parametrize(
    ("model", "task", "row", "says"),
    [
        ("smollm2", "generate", {"prompt": "x", "regex": "a"}, "llguidance"),
        ("smollm2", "generate", {"body": {"messages": MESSAGES, "response_format": {"type": "json_object"}}}, "llguid"),
        ("tiny", "generate", {"prompt": "x"}, "no tokenizer"),
        ("tiny", "generate", {"prompt_ids": [1], "stop": "x"}, "stop strings need a tokenizer"),
        ("tiny", "chat", {"messages": MESSAGES}, "no tokenizer"),
        ("tiny", "score", {"text": "x"}, "no tokenizer"),
        ("encoder", "score", {"text": "x"}, "no head"),
        ("encoder", "generate", {"text": "x"}, "no head"),
    ],
)
def test_what_the_model_or_the_installation_lacks_ends_the_run(
    model: str,
    task: str,
    row: dict[str, Any],
    says: str,
    request: pytest.FixtureRequest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = request.getfixturevalue(model)
    monkeypatch.setitem(sys.modules, "llguidance", None)  # not installed
    rows = [{"id": 1, "prompt_ids": [1], "max_tokens": 1}, {"id": 2, **row}]
    source, target = write(tmp_path / "in.jsonl", rows), tmp_path / "out.jsonl"
    assert main(["batch", str(source), str(target), "-m", str(path), "--task", task]) == 1
    assert says in " ".join(capsys.readouterr().err.split())
    assert all("error" not in line for line in lines(target)) and 2 not in by_id(target)


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


def test_what_cannot_be_written_is_no_error_of_a_row(tiny: Path, tmp_path: Path) -> None:
    """Whose line, though shorter, might have room where that of the result had none."""

    class Full(Target):
        def write(self, line: dict[str, Any]) -> None:
            if "error" not in line:
                raise PellucidError("the disk is full")
            super().write(line)

    rows = [Row(1, "id", "row 1", {"prompt_ids": [1, 2]}), Row(2, "id", "row 2", {"prompt_ids": [99999]})]
    with Model.load(tiny) as model, Full(str(tmp_path / "out.jsonl")) as target:
        with pytest.raises(PellucidError, match="the disk is full"):
            run(model, rows, target, "score")
    assert lines(tmp_path / "out.jsonl") == []
