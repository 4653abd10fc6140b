"""The programs of examples/ run, on small inputs, and do what they say; they are short, and are listed."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


def run(name: str, *arguments: str | Path, stdin: str = "") -> list[str]:
    """The lines that an example prints."""
    command = [sys.executable, ROOT / "examples" / name, *arguments]
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


@pytest.fixture(autouse=True)
def default_model(smollm2: Path) -> None:
    """The model that the examples use is in the cache."""


def test_extract() -> None:
    lines = run("extract.py", stdin="Ada, 36, writes from Athens.\n\nOld Tom lives in York.\n")
    assert len(lines) == 2 and all(line.count("\t") == 2 for line in lines)
    assert lines[0].split("\t")[1] in ("36", "None", "") or lines[0].split("\t")[1].isdigit()


def test_summarise(tmp_path: Path) -> None:
    (tmp_path / "short.txt").write_text("Rivers carry water from mountains to the sea. Dams hold it back.")
    (tmp_path / "long.txt").write_text("The harbour was busy that morning. " * 60)
    lines = run("summarise.py", tmp_path / "short.txt", tmp_path / "long.txt", "--part", "256", "--max-tokens", "12")
    files, summaries = zip(*(line.split(": ", 1) for line in lines), strict=True)
    assert [Path(file).name for file in files] == ["short.txt", "long.txt", "long.txt"]
    assert all(len(summary) > 10 for summary in summaries)


def test_chat_bot() -> None:
    text = "\n".join(run("chat_bot.py", "--max-tokens", "16", stdin="Name a river.\nName a city.\n"))
    answers = text.split("> ")
    assert len(answers) == 4 and answers[0] == ""  # a prompt for each line, and the last one at the end of the input
    assert all(answer.strip() for answer in answers[1:3])


def test_chat_bot_outgrows_its_context() -> None:
    sizes = ("--context", "128", "--max-tokens", "32")
    text = "\n".join(run("chat_bot.py", *sizes, stdin="Name a river.\nName a city.\nName a sea.\nName a lake.\n"))
    assert " (0 " not in text
    assert re.search(r" \(\d earlier messages left out\)$", text, re.M)


def test_chat_bot_keeps_the_conversation(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from pellucid import Context

    turns: list[list[str]] = []
    chat = Context.chat

    def watched(self: Context, messages: list[dict[str, str]], **options: object) -> object:
        turns.append([message["role"] for message in messages])
        return chat(self, messages, **options)  # type: ignore[call-overload]

    questions = iter(["Hello.", "And now?"])
    monkeypatch.setattr(Context, "chat", watched)
    monkeypatch.setattr("builtins.input", lambda prompt: next(questions, None) or (_ for _ in ()).throw(EOFError))
    monkeypatch.setattr(sys, "argv", ["chat_bot.py", "--max-tokens", "8"])
    exec(compile((ROOT / "examples" / "chat_bot.py").read_text(), "chat_bot.py", "exec"), {"__name__": "__main__"})
    assert turns == [["system", "user"], ["system", "user", "assistant", "user"]]
    assert capsys.readouterr().out.strip()


def test_classify() -> None:
    texts = ["What a wonderful film!", "Dull, slow and far too long."]
    rows = [line.split("\t") for line in run("classify.py", stdin="\n".join(texts))]
    assert [row[0] for row in rows] == ["positive", "negative"]
    assert [row[2] for row in rows] == texts
    assert all(0.5 <= float(row[1]) <= 1 for row in rows)


def test_classify_with_other_examples(tmp_path: Path) -> None:
    animals = ["cat", "dog", "cow", "horse"]
    fruits = ["apple", "pear", "plum", "cherry"]
    pairs = [line for a, f in zip(animals, fruits, strict=True) for line in (f"{a}\tanimal", f"{f}\tfruit")]
    (tmp_path / "pairs.tsv").write_text("\n".join(pairs))
    lines = run("classify.py", "--examples", tmp_path / "pairs.tsv", stdin="sheep\norange")
    assert [line.partition("\t")[0] for line in lines] == ["animal", "fruit"]


def test_score_to_parquet(tmp_path: Path) -> None:
    from pyarrow import parquet

    texts = ["The capital of France is Paris.", "Paris is of the capital France.", "A cat."]
    (tmp_path / "lines.txt").write_text("\n\n".join(texts))
    assert run("score_to_parquet.py", tmp_path / "lines.txt", tmp_path / "scores.parquet", "--batch", "2") == []
    table = parquet.read_table(tmp_path / "scores.parquet")
    assert table.column_names == ["text", "tokens", "logprob", "bits_per_byte"]
    assert table["text"].to_pylist() == texts
    bits = table["bits_per_byte"].to_pylist()
    assert 0 < bits[0] < bits[1]
    assert all(logprob < 0 for logprob in table["logprob"].to_pylist())


def test_fill_column(tmp_path: Path) -> None:
    import polars

    from pellucid import Model

    table = polars.DataFrame({"name": ["Rhine", None, "Nile"], "long": [1230, 5, 6650]})
    table.write_csv(tmp_path / "rivers.csv")
    question = "Where is the river {name}, of {long} km?"
    some = (question, "--max-tokens", "6", "--column", "said")
    assert run("fill_column.py", tmp_path / "rivers.csv", tmp_path / "more.parquet", *some) == []
    found = polars.read_parquet(tmp_path / "more.parquet")
    assert found.drop("said").equals(table)
    with Model.load("smollm2-135m") as model:
        asked = [question.format(name=name, long=long) for name, long in table.drop_nulls().iter_rows()]
        said = [model.chat([{"role": "user", "content": text}], max_tokens=6, temperature=0).text for text in asked]
    assert found["said"].to_list() == [said[0], None, said[1]]
    assert run("fill_column.py", tmp_path / "more.parquet", tmp_path / "more.csv", "Is {said} right?") == []
    assert polars.read_csv(tmp_path / "more.csv").columns == ["name", "long", "said", "answer"]


def test_remove_heads() -> None:
    lines = run("remove_heads.py", "--heads", "3")
    assert lines[0].startswith("' Paris': 0.")
    probabilities = [float(line.rpartition(": ")[2]) for line in lines[:4]]
    assert all(re.match(r"without head \d of layer \d+ \([+-]\d\.\d\d\): 0\.\d{3}$", line) for line in lines[1:4])
    assert min(probabilities[1:]) < probabilities[0]
    assert lines[4].startswith("now:")


def test_search() -> None:
    lines = ["Owls hunt at night.", "Swallows fly south.", "", "Owls hunt at night."]
    found = run("search.py", "Owls hunt at night.", "--count", "3", stdin="\n".join(lines))
    assert found[:2] == ["1.000 Owls hunt at night."] * 2
    assert re.fullmatch(r"0\.\d{3} Swallows fly south\.", found[2]) and len(found) == 3


def test_functions() -> None:
    (line,) = run("functions.py", stdin="How many miles are 12 kilometres?\n")
    assert re.fullmatch(r"(convert|day_of_the_week)\(\{.*\}\) -> .+", line)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_examples_are_short_and_listed(example: Path) -> None:
    assert len(example.read_text().splitlines()) < 60
    assert f"`{example.name}`" in (ROOT / "docs" / "examples.md").read_text()
