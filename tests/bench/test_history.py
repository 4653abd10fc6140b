"""Documents of `pellucid bench` that were kept: written, read back, compared; and files that are something else."""

from __future__ import annotations

import copy
import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest

from pellucid.bench import history
from pellucid.cli import main
from tests.reference.tiny import TINY, write_gguf

DOCUMENT: dict[str, Any] = {
    "schema": history.SCHEMA,
    "pellucid": "0.1.0",
    "commit": "0123456789",
    "date": "2026-11-26T00:00:00Z",
    "machine": {
        "cpu": "AMD EPYC",
        "processor": "AuthenticAMD, family 25, model 17, stepping 1",
        "system": "Linux x86_64",
        "threads": 2,
        "isa": "avx512bf16",
        "huge_pages": True,
        "tuning": {"ahead_bytes": 4096, "ahead_lines": 9},
    },
    "model": {
        "path": "/models/smollm2-135m.gguf",
        "name": "SmolLM2 135M",
        "architecture": "llama",
        "quantisation": "Q4_1",
        "file_bytes": 98_000_000,
        "kv": "bf16",
        "precision": "default",
    },
    "limits": {"read_2m": {"unit": "GB/s", "median": 40.0}, "int8": {"unit": "Gop/s", "median": 940.0}},
    "phases": [
        {"name": "decode at 0", "tokens_per_second": {"median": 400.0}, "limit": {"fraction": {"median": 0.8}}},
        {"name": "cold start", "tokens_per_second": {"median": 4.0}, "limit": None},
    ],
}


def document() -> dict[str, Any]:
    return copy.deepcopy(DOCUMENT)


def write(tmp_path: Path, doc: Any) -> Path:
    path = tmp_path / "earlier.json"
    path.write_text(json.dumps(doc))
    return path


SAVED = {**DOCUMENT, "model": {**DOCUMENT["model"], "path": "smollm2-135m.gguf"}}


def test_no_folder_of_this_machine_is_saved(tmp_path: Path) -> None:
    doc = document()
    given = str(tmp_path / "models/some.gguf")
    doc["machine"]["tuning_why"] = f"measured earlier, kept in {tmp_path / 'tuning/0.json'}"
    doc["model"]["path"] = given
    text = history.save(doc, tmp_path / "a.json").read_text()
    assert str(tmp_path) not in text and '"path": "some.gguf"' in text
    assert doc["model"]["path"] == given  # what was given stays as it was


def test_what_is_saved_is_read_back(tmp_path: Path) -> None:
    path = history.save(document(), tmp_path / "a.json")
    assert path == tmp_path / "a.json" and json.loads(path.read_text()) == SAVED
    assert history.compare(document(), history.read(path))["differs"] == {}
    changed = document()
    changed["commit"] = "9876543210"
    history.save(changed, path)  # in place of the first
    assert history.read(path)["commit"] == "9876543210" and os.listdir(tmp_path) == ["a.json"]
    (tmp_path / "link").symlink_to("a.json")
    assert history.save(document(), tmp_path / "link").samefile(path) and (tmp_path / "link").is_symlink()
    assert json.loads(path.read_text()) == SAVED


def test_a_folder_gets_a_name_by_version_machine_and_model(tmp_path: Path) -> None:
    path = history.save(document(), tmp_path)
    assert path.name == "0.1.0-0123456789-amd-epyc-25-17-1-avx512bf16-2t-smollm2-135m.json"
    other = document()
    other["machine"]["cpu"], other["commit"] = "../../Xeon\x1b[2J/ é", ""
    assert history.save(other, tmp_path).name == "0.1.0-..-..-xeon-2j-25-17-1-avx512bf16-2t-smollm2-135m.json"
    assert len(os.listdir(tmp_path)) == 2


def test_processors_of_arm_have_names_of_their_own(tmp_path: Path) -> None:
    """Linux gives no name of theirs, only numbers."""
    for part in ("0xd0c", "0xd40", "0xd4f"):
        doc = document()
        doc["machine"] |= {"cpu": "", "processor": f"implementer 0x41, variant 0x1, part {part}", "isa": "neon"}
        assert f"-0x41-0x1-{part}-neon-" in history.save(doc, tmp_path).name
    assert len(os.listdir(tmp_path)) == 3


def test_ratios() -> None:
    new = document()
    new["phases"][0]["tokens_per_second"]["median"] = 500.0
    new["phases"][0]["limit"]["fraction"]["median"] = 0.9
    new["limits"]["read_2m"]["median"] = 50.0
    new["phases"].append({"name": "prefill 512", "tokens_per_second": {"median": 9.0}, "limit": None})
    old = document()
    old["phases"].append({"name": "dance", "tokens_per_second": {"median": 9.0}, "limit": None})
    found = history.compare(new, old)
    assert found["phases"] == {
        "decode at 0": {"tokens_per_second": 1.25, "fraction": pytest.approx(1.125), "by_bandwidth": []},
        "cold start": {"tokens_per_second": 1.0, "fraction": None, "by_bandwidth": []},
    }
    assert found["limits"] == {"read_2m": 1.25, "int8": 1.0}
    assert (found["missing"], found["added"], found["differs"]) == (["dance"], ["prefill 512"], {})
    text = history.rows(found, "old.json", 8)
    assert ["decode at 0", "1.250", "1.125", "", "", "", "", ""] in text
    assert ["only there: dance"] in text and ["only here: prefill 512"] in text
    assert ["compared with old.json (0.1.0, 0123456789, 2026-11-26T00:00:00Z)"] in text
    assert not any("another" in row[0] for row in text)


def test_runs_at_the_same_bandwidth_are_compared(tmp_path: Path) -> None:
    def group(read: float, rate: float, fraction: float) -> dict[str, Any]:
        values = {"gb_per_second": read, "tokens_per_second": rate, "fraction": fraction}
        return {key: {"median": value} for key, value in values.items()}

    new, old = document(), document()
    old["phases"][0]["by_bandwidth"] = [group(35.0, 300.0, 0.9), group(59.0, 400.0, 0.8)]
    new["phases"][0]["by_bandwidth"] = [group(20.0, 250.0, 0.9), group(58.0, 440.0, 0.9)]
    path = write(tmp_path, old)
    found = history.compare(new, history.read(path))
    ratios = {"gb_per_second": 58.0, "tokens_per_second": pytest.approx(1.1), "fraction": pytest.approx(1.125)}
    assert found["phases"]["decode at 0"]["by_bandwidth"] == [ratios]  # at 20 GB/s there was nothing
    assert ["  at 58 GB/s", "1.100", "1.125", "", "", "", "", ""] in history.rows(found, "old.json", 8)


@pytest.mark.parametrize(
    ("part", "key", "old", "said"),
    [
        ("machine", "cpu", "Intel Xeon", "another processor: Intel Xeon there, AMD EPYC here"),
        ("machine", "processor", "AuthenticAMD, family 26", "another processor: AuthenticAMD, family 26 there, "),
        ("machine", "threads", 4, "another threads: 4 there, 2 here"),
        ("machine", "isa", "avx2", "another instruction set: avx2 there, avx512bf16 here"),
        ("machine", "huge_pages", False, "another 2 MB pages: no there, yes here"),
        ("machine", "system", "", "another system: none there, Linux x86_64 here"),
        (
            "machine",
            "tuning",
            {"ahead_bytes": 0, "ahead_lines": 9},
            "another tuning: ahead_bytes 0 there, ahead_bytes 4096 here",
        ),
        ("machine", "tuning", {}, "another tuning: none there, ahead_bytes 4096, ahead_lines 9 here"),
        ("model", "name", "Gemma", "another model: Gemma there, SmolLM2 135M here"),
        ("model", "quantisation", "Q8_0", "another weights: Q8_0 there, Q4_1 here"),
        ("model", "file_bytes", 5, "another bytes of the model file: 5 there, 98000000 here"),
        ("model", "kv", "f16", "another type of keys and values: f16 there, bf16 here"),
    ],
)
def test_what_differs_is_said(part: str, key: str, old: Any, said: str) -> None:
    earlier = document()
    earlier[part][key] = old
    text = [row[0] for row in history.rows(history.compare(document(), earlier), "old.json", 8)]
    assert len([line for line in text if line.startswith(said)]) == 1
    assert "so the ratios below do not compare only the versions" in text


def test_texts_of_the_file_are_shown_as_one_short_line() -> None:
    earlier = document()
    earlier["machine"]["cpu"] = "a\x1b[2J\nb" + "c" * 10_000
    earlier["phases"].append({**earlier["phases"][1], "name": "d\n" * 1000})
    for row in history.rows(history.compare(document(), earlier), "old.json", 8):
        assert len(row[0]) < 400 and (row[0].isprintable())


def broken(**changes: Any) -> dict[str, Any]:
    """The document with other values at dotted paths; ... removes one."""
    doc = document()
    for path, value in changes.items():
        *folders, last = path.split("__")
        at: Any = doc
        for folder in folders:
            at = at[int(folder)] if folder.isdecimal() else at[folder]
        if value is ...:
            del at[last]
        else:
            at[last] = value
    return doc


@pytest.mark.parametrize(
    ("doc", "message"),
    [
        ([], 'expected "schema": 2'),
        ({"schema": True}, 'expected "schema": 2'),
        (broken(schema=1), 'expected "schema": 2'),
        (broken(schema=2.0), 'expected "schema": 2'),
        (broken(commit=7), "commit: expected a string"),
        (broken(machine=...), "machine: expected an object"),
        (broken(machine__cpu=...), "machine.cpu: expected a string"),
        (broken(machine__threads="2"), "machine.threads: expected a positive integer"),
        (broken(machine__threads=True), "machine.threads: expected a positive integer"),
        (broken(machine__huge_pages=1), "machine.huge_pages: expected true or false"),
        (broken(machine__tuning=...), "machine.tuning: expected an object"),
        (broken(machine__tuning={"a": 1.5}), "machine.tuning.a: expected an integer"),
        (broken(model=[]), "model: expected an object"),
        (broken(model__file_bytes=-1), "model.file_bytes: expected a positive integer"),
        (broken(limits=[]), "limits: expected an object"),
        (broken(limits__int8=5), "limits.int8.median: expected a positive number"),
        (broken(phases=...), "phases: expected a list"),
        (broken(phases=[7]), r"phases\[0\]: expected an object"),
        (broken(phases__0__name=None), r"phases\[0\].name: expected a string"),
        (broken(phases__1__name="decode at 0"), r"phases\[1\].name: expected a name that no phase before it has"),
        (broken(phases__0__tokens_per_second=3), r"phases\[0\].tokens_per_second.median: expected a positive number"),
        (broken(phases__0__tokens_per_second={"median": 0}), r"phases\[0\].tokens_per_second.median"),
        (broken(phases__0__tokens_per_second={"median": True}), r"phases\[0\].tokens_per_second.median"),
        (broken(phases__0__tokens_per_second={"median": 10**400}), r"phases\[0\].tokens_per_second.median"),
        (broken(phases__0__tokens_per_second={"median": float("nan")}), r"phases\[0\].tokens_per_second.median"),
        (broken(phases__0__tokens_per_second={"median": float("inf")}), r"phases\[0\].tokens_per_second.median"),
        (broken(phases__0__by_bandwidth=3), r"phases\[0\].by_bandwidth: expected a list"),
        (broken(phases__0__by_bandwidth=[3]), r"phases\[0\].by_bandwidth\[0\]: expected an object"),
        (broken(phases__0__by_bandwidth=[{}]), r"phases\[0\].by_bandwidth\[0\].gb_per_second.median: expected a pos"),
        (broken(phases__0__limit=[]), r"phases\[0\].limit: expected an object"),
        (broken(phases__0__limit={}), r"phases\[0\].limit.fraction.median: expected a positive number"),
    ],
)
def test_broken_documents(doc: Any, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path, doc)
    with pytest.raises(ValueError, match=message) as error:
        history.read(path)
    assert str(path) in str(error.value)
    assert main(["bench", "--compare", str(path)]) == 2  # before any model is loaded
    said = capsys.readouterr().err
    assert said.startswith("pellucid: --compare: ") and said.count("\n") == 1


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"not json",
        b"\xff\xfe",
        b'{"schema": 2',
        b"[" * 200_000,
        b'{"schema": ' + b"9" * 10_000 + b"}",
        b"\x00" * 99,
    ],
)
def test_files_that_are_no_documents(data: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "earlier.json"
    path.write_bytes(data)
    with pytest.raises(ValueError, match="is not a JSON document: "):
        history.read(path)
    assert main(["bench", "--compare", str(path)]) == 2
    assert len(capsys.readouterr().err) < 501


def test_files_without_end_or_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="at most 16777216 bytes"):
        history.read("/dev/zero")
    for path in (tmp_path / "none.json", tmp_path):
        assert main(["bench", "--compare", str(path)]) == 1
        assert str(path) in capsys.readouterr().err


def test_where_nothing_can_be_saved(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path, said in (
        (tmp_path / "none" / "a.json", f"{tmp_path / 'none'} is not a folder"),
        (f"{tmp_path}/none/", f"{tmp_path}/none is not a folder"),
        ("/dev/null", "/dev/null is neither a file nor a folder"),
    ):
        with pytest.raises(ValueError, match=said):
            history.save(document(), path)
        assert main(["bench", "--save", str(path)]) == 2  # before anything is measured
        assert f"--save: {said}" in capsys.readouterr().err
    assert not os.listdir(tmp_path)


def test_the_command_saves_and_compares(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What one run saved, another compares with."""
    model, kept = write_gguf(TINY[0], tmp_path / "tiny.gguf"), tmp_path / "history"
    kept.mkdir()
    command = ["bench", "-m", str(model), "--repeat", "1", "--phase", "decode"]
    assert main([*command, "--threads", "1", "--save", str(kept)]) == 0
    (path,) = kept.iterdir()
    assert f"written to {path}" in capsys.readouterr().err
    assert main([*command, "--threads", "2", "--compare", str(path)]) == 0
    text = capsys.readouterr().out
    assert f"compared with {path} (0.1.0, " in text and "another threads: 1 there, 2 here" in text
    assert main([*command, "--threads", "1", "--compare", str(path), "--json"]) == 0
    compared = json.loads(capsys.readouterr().out)["compared"]
    assert compared["differs"] == {} and compared["phases"]["decode at 0"]["fraction"] > 0


def test_a_document_that_cannot_be_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was measured is shown all the same."""

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "replace", full)
    model, path = write_gguf(TINY[0], tmp_path / "tiny.gguf"), tmp_path / "a.json"
    assert main(["bench", "-m", str(model), "--repeat", "1", "--phase", "decode", "--save", str(path)]) == 1
    said = capsys.readouterr()
    assert "decode at 0" in said.out
    assert said.err.endswith(f"pellucid: {path}: no space left on device\n")


def test_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = history.commit()
    assert here == "" or len(here.rstrip("+")) == 10
    monkeypatch.setenv("PATH", str(tmp_path))  # no git
    assert history.commit() == ""
