"""What is measured at a load, where it is kept, and what is done with a file that is broken."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pellucid import Model, _engine, tuning
from pellucid.bench import tune as tune_module
from pellucid.bench.tune import tune
from pellucid.cli import main
from pellucid.errors import OutOfMemoryError, WrongValue
from pellucid.processor import processor
from tests.embedding.cases import CASES
from tests.embedding.files import load_golden, write_folder
from tests.reference.tiny import TINY, write_gguf

TIERS = [name for name, built, runs in _engine.isas() if built and runs]
MEASURED = [name for name in TIERS if tuning.choices(name)]
ISA = MEASURED[-1] if MEASURED else ""


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PELLUCID_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("PELLUCID_TUNE", raising=False)
    monkeypatch.setattr(tuning, "_known", {})
    return tmp_path / "cache"


@pytest.fixture(autouse=True)
def steady(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that only its readers move, and products without a limit: whatever else the machine does, a measurement
    has time for a few turns, and ends."""

    class Probe(_engine.Probe):
        def products(self, products: Any, *, seconds: float = 0) -> list[int]:
            return super().products(products)

    ticks = itertools.count()
    clock = SimpleNamespace(perf_counter=lambda: next(ticks) * tuning.SECONDS / 20)
    monkeypatch.setattr(tuning, "time", clock)
    monkeypatch.setattr(_engine, "Probe", Probe)


@pytest.fixture
def model_path(tmp_path: Path) -> Path:
    return write_gguf(TINY[0], tmp_path / "tiny.gguf")


def kept(cache: Path) -> list[Path]:
    return sorted(cache.glob("tuning/*"))


def test_this_machine_has_something_to_measure() -> None:
    assert ("x86_64" not in os.uname().machine) or MEASURED


def test_limits_and_defaults() -> None:
    limits = _engine.tuning_limits()
    for isa in TIERS:
        default = _engine.default_tuning(isa)
        assert default.keys() == limits.keys()
        assert all(limits[name][0] <= value <= limits[name][1] for name, value in default.items())


@pytest.mark.parametrize("isa", MEASURED)
@pytest.mark.parametrize("long", [False, True])
def test_the_default_comes_first(isa: str, long: bool) -> None:
    default = _engine.default_tuning(isa)
    for choice in tuning.choices(isa, long):
        assert choice.candidates[0] == {name: default[name] for name in choice.candidates[0]}
        assert len(choice.candidates) == len({tuple(sorted(c.items())) for c in choice.candidates}) > 1


@pytest.mark.parametrize("isa", MEASURED)
def test_measured_once_kept_and_read(isa: str, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = tuning.find(isa, 2)
    assert first.why == f"measured now, kept in {kept(cache)[0]}" and len(kept(cache)) == 1
    assert {t.what for t in first.timings} == {c.what for c in tuning.choices(isa)}
    for timing in first.timings:
        chosen = timing.candidates[timing.chosen]
        assert {name: first.values[name] for name in chosen} == chosen
        assert timing.ratios[0] == 1 and all(r > 0 for r in timing.ratios)
        assert timing.chosen == 0 or timing.ratios[timing.chosen] == min(timing.ratios) < 1 - tuning.GAIN

    def measure(*_: Any) -> Any:
        raise AssertionError("measured again")

    monkeypatch.setattr(tuning, "measure", measure)
    assert tuning.find(isa, 2) is first  # in this process
    monkeypatch.setattr(tuning, "_known", {})
    again = tuning.find(isa, 2)  # in the next one
    assert again.values == first.values and again.why == f"measured earlier, kept in {kept(cache)[0]}"
    with pytest.raises(AssertionError, match="measured again"):
        tuning.find(isa, 1)  # other threads, another measurement


@pytest.mark.parametrize("isa", MEASURED)
@pytest.mark.parametrize("step", [0.0001, 0.001, 0.004, 0.03])
def test_a_measurement_ends_in_time(isa: str, step: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """A buffer and runs that take so long by a clock that stands still otherwise."""
    now = 0.0
    begun: list[float] = []

    class Probe:
        def __init__(self, **_: Any) -> None:
            self.products([{}], seconds=1.0)

        def products(self, runs: list[dict[str, Any]], seconds: float) -> list[float]:
            nonlocal now
            end, done = now + seconds, []
            for _ in runs:
                if now >= end:
                    break
                begun.append(now)
                now += step
                done.append(step)
            return done

    monkeypatch.setattr(tuning, "time", SimpleNamespace(perf_counter=lambda: now))
    monkeypatch.setattr(_engine, "Probe", Probe)
    found = tuning.measure(isa, 1)
    assert begun[-1] < tuning.SECONDS and now < tuning.SECONDS + step + 1e-9
    assert all(timing.chosen == 0 for timing in found)  # all are as fast
    if step <= 0.001:
        assert [t.what for t in found] == [c.what for c in tuning.choices(isa)]
    elif step == 0.03:
        assert not found


def test_a_single_turn_decides_nothing() -> None:
    candidates = ({"step_rows": 16}, {"step_rows": 32})
    one = [[2.0, 1.0]]
    assert tuning.decide("", candidates, [one], 0.05).chosen == 0
    assert tuning.decide("", candidates, [one * 2], 0.05).chosen == 1
    assert tuning.decide("", candidates, [[[2.0, 1.0], [1.0, 4.0]]], 0.05).chosen == 0  # the least of each


def test_another_build_is_measured_again(cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    before = tuning._key(ISA, 2)
    other = tmp_path / "_engine.so"
    other.write_bytes(b"another build")
    monkeypatch.setattr(tuning, "_build", os.stat(other))
    assert tuning._key(ISA, 2) != before


def test_an_upgrade_that_removes_the_build_in_use(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(_engine, "__file__", str(tmp_path / "removed.so"))
    assert tuning.find(ISA, 1).why.startswith("measured now")


def test_another_processor_of_the_same_name_is_measured_again(monkeypatch: pytest.MonkeyPatch) -> None:
    before = tuning._key(ISA, 2)
    monkeypatch.setattr(tuning, "processor", lambda: "AuthenticAMD, family 25, model 99, stepping 1")
    other = tuning._key(ISA, 2)
    assert other != before and other.startswith(_engine.cpu_name()) and "model 99" in other
    monkeypatch.setattr(tuning, "processor", lambda: "AuthenticAMD, family 26, model 99, stepping 1")
    assert tuning._key(ISA, 2) not in (before, other)


def test_processor(tmp_path: Path) -> None:
    assert processor(tmp_path) == ""
    (tmp_path / "proc").mkdir()
    text = "processor\t: 0\nvendor_id\t: GenuineIntel\ncpu family\t: 6\nmodel\t\t: 143\nmodel name\t: Xeon\n"
    (tmp_path / "proc/cpuinfo").write_text(f"{text}stepping\t: 8\n\nprocessor\t: 1\nmodel\t\t: 7\n")
    assert processor(tmp_path) == "GenuineIntel, family 6, model 143, stepping 8"
    arm = "processor\t: 0\nCPU implementer\t: 0x41\nCPU variant\t: 0x3\nCPU part\t: 0xd0c\n"
    (tmp_path / "proc/cpuinfo").write_text(arm)
    assert processor(tmp_path) == "implementer 0x41, variant 0x3, part 0xd0c"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff\xfe",
        b"{}" + b" " * (1 << 17),
        b"[" * 60000,
        b'{"key": "another processor", "values": {}}',
        "one value less",
        "a value beyond its limits",
        "a value of another type",
        "an unknown name",
        "another key",
        "a list of values",
        "a text of values",
    ],
)
def test_a_broken_file_is_ignored_and_replaced(
    content: bytes | str, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tuning.find(ISA, 1)
    path = kept(cache)[0]
    whole = json.loads(path.read_text())
    if isinstance(content, str):
        document = {**whole, "values": dict(whole["values"])}
        if content == "one value less":
            del document["values"]["step_rows"]
        elif content == "another key":
            document["key"] += "!"
        elif content == "a list of values":
            document["values"] = list(document["values"].items())
        elif content == "a text of values":
            document["values"] = "step_rows"
        else:
            name, value = {
                "a value beyond its limits": ("step_rows", 0),
                "a value of another type": ("step_rows", "96"),
                "an unknown name": ("step_row", 96),
            }[content]
            document["values"][name] = value
        content = json.dumps(document).encode()
    path.write_bytes(content)
    monkeypatch.setattr(tuning, "_known", {})
    found = tuning.find(ISA, 1)
    assert found.why.startswith("measured now") and json.loads(path.read_text())["key"] == whole["key"]
    assert kept(cache) == [path]  # no draft is left


@pytest.mark.parametrize("kind", ["fifo", "endless", "loop"])
def test_what_is_no_file_is_ignored_and_replaced(kind: str, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tuning.find(ISA, 1)
    path = kept(cache)[0]
    path.unlink()
    if kind == "fifo":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/zero" if kind == "endless" else path)
    monkeypatch.setattr(tuning, "_known", {})
    found: list[tuning.Tuning] = []
    thread = threading.Thread(target=lambda: found.append(tuning.find(ISA, 1)), daemon=True)
    thread.start()
    thread.join(60)
    assert found and found[0].why.startswith("measured now")
    assert path.is_file() and not path.is_symlink() and kept(cache) == [path]


def test_what_was_measured_at_length_is_read_where_a_load_measures_nothing(
    model_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Model.load(model_path, threads=1, isa="scalar") as model:
        assert model.info().tuning_why == "by processor: for this instruction set a load measures nothing"
        assert not kept(cache)
        values = {**model.info().tuning, "step_rows": 17}
    timing = tuning.Timing("rows at once", ({"step_rows": 108}, {"step_rows": 17}), (1.0, 0.5), 1)
    assert tuning.keep("scalar", 1, [timing]).values == values
    for asked in ("", "now"):
        monkeypatch.setenv("PELLUCID_TUNE", asked)
        monkeypatch.setattr(tuning, "_known", {})
        found = tuning.find("scalar", 1)
        assert found == tuning.Tuning(values, f"measured earlier, kept in {kept(cache)[0]}")


def test_later_loads_of_the_process_use_what_was_measured_at_length() -> None:
    before = tuning.find("scalar", 1).values
    values = {"step_rows": before["step_rows"] // 2}
    tuning.keep("scalar", 1, [tuning.Timing("rows", (values,), (1.0,), 0)])
    assert tuning.find("scalar", 1).values == {**before, **values}


def test_where_the_cache_cannot_be_written(cache: Path) -> None:
    cache.parent.mkdir(exist_ok=True)
    cache.write_bytes(b"a file where the folder should be")
    found = tuning.find(ISA, 1)
    assert found.why == "measured now, not kept: the cache folder cannot be written" and found.timings
    assert tuning.find(ISA, 1) is found  # not measured for every load


def test_without_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_memory(**_: Any) -> Any:
        raise OutOfMemoryError("no memory")

    monkeypatch.setattr(_engine, "Probe", no_memory)
    found = tuning.find(ISA, 1)
    assert found == tuning.Tuning(_engine.default_tuning(ISA), "by processor: no memory to measure")


def test_where_other_work_leaves_no_time(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning, "SECONDS", 0)
    found = tuning.find(ISA, 1)
    assert found == tuning.Tuning(_engine.default_tuning(ISA), "by processor: other work left no time to measure")
    assert not kept(cache)  # the next process tries again
    assert tuning.find(ISA, 1) is found
    monkeypatch.setattr(tuning, "processors", lambda: 2)
    assert tuning.find(ISA, 3).why == "by processor: more threads than processors left no time to measure"


def test_what_was_measured_in_part_is_not_kept(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a choice has no turn, or a single one, which decides nothing."""
    whole = tuning._turns

    def less(n: int) -> Any:
        def turns(probe: Any, choice: tuning.Choice, *more: Any) -> Any:
            found = whole(probe, choice, *more)
            return [one[:n] for one in found] if choice.what == "prefetching, codes of a byte" else found

        return turns

    for n in (0, 1):
        monkeypatch.setattr(tuning, "_turns", less(n))
        monkeypatch.setattr(tuning, "_known", {})
        found = tuning.find(ISA, 1)
        assert found.why == "measured in part, not kept: other work left no time for the rest"
        assert [t.what for t in found.timings] == [c.what for c in tuning.choices(ISA)][:-1]
        assert not kept(cache)
    monkeypatch.setattr(tuning, "_turns", less(2))
    monkeypatch.setattr(tuning, "_known", {})
    assert tuning.find(ISA, 1).why.startswith("measured now, kept in ")


def test_off_and_now(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PELLUCID_TUNE", "off")
    assert tuning.find(ISA, 1) == tuning.Tuning(_engine.default_tuning(ISA), "by processor (PELLUCID_TUNE=off)")
    assert not kept(cache)
    monkeypatch.delenv("PELLUCID_TUNE")
    tuning.find(ISA, 1)
    before = kept(cache)[0].stat().st_mtime_ns
    monkeypatch.setattr(tuning, "_known", {})
    monkeypatch.setenv("PELLUCID_TUNE", "now")
    assert tuning.find(ISA, 1).why.startswith("measured now")
    assert kept(cache)[0].stat().st_mtime_ns > before
    monkeypatch.setenv("PELLUCID_TUNE", "later")
    with pytest.raises(WrongValue, match=r"PELLUCID_TUNE='later': expected 'auto', 'off' or 'now'"):
        tuning.find(ISA, 1)


@pytest.mark.parametrize("seconds", [tuning.SECONDS, 0])
def test_now_leaves_what_a_load_does_not_measure(seconds: float, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    timing = tuning.Timing("rows at once", ({"step_rows": 108}, {"step_rows": 17}), (1.0, 0.5), 1)
    tuning.keep(ISA, 1, [timing])
    monkeypatch.setenv("PELLUCID_TUNE", "now")
    monkeypatch.setattr(tuning, "SECONDS", seconds)
    found = tuning.find(ISA, 1)
    assert found.values["step_rows"] == json.loads(kept(cache)[0].read_text())["values"]["step_rows"] == 17
    assert found.why.startswith("measured now" if seconds else "measured earlier")


@pytest.mark.parametrize("name", ["PELLUCID_TUNE", "PELLUCID_THREADS", "PELLUCID_SHARE"])
@pytest.mark.parametrize("command", ["info", "tune"])
def test_a_wrong_variable_is_a_usage_error(
    name: str, command: str, model_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(name, "later")
    assert main([command, "-m", str(model_path)]) == 2
    assert f"pellucid: {name}='later': expected " in " ".join(capsys.readouterr().err.split())


def test_loads_at_once_measure_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    measure = tuning.measure

    def counted(*arguments: Any) -> Any:
        calls.append(arguments)
        return measure(*arguments)

    monkeypatch.setattr(tuning, "measure", counted)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: tuning.find(ISA, 1), range(8)))
    assert len(calls) == 1 and all(f is found[0] for f in found)


def test_a_child_forked_during_a_measurement_measures_for_itself() -> None:
    with tuning._lock:  # as a thread of the parent that measures holds it
        child = os.fork()
        if child == 0:
            try:
                os._exit(0 if tuning.find(ISA, 1).why.startswith("measured now") else 1)
            finally:
                os._exit(2)
    for _ in range(600):
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            break
        time.sleep(0.1)
    else:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        raise AssertionError("the child waits for a thread that does not exist")
    assert os.waitstatus_to_exitcode(status) == 0


def test_a_model_says_what_was_chosen_and_why(model_path: Path) -> None:
    with Model.load(model_path, threads=1) as model:
        info = model.info()
        assert info.tuning == tuning.find(info.isa, 1).values
        assert info.tuning_why == tuning.find(info.isa, 1).why
        assert "tuning_why" in str(info) and "step_rows: " in str(info)


def test_a_wrong_tuning_is_refused(model_path: Path) -> None:
    with Model.load(model_path, threads=1) as model:
        engine = model.core.engine
        for wrong, text in [
            ({"steps": 1}, "unknown name in a tuning: 'steps'"),
            ({"step_rows": 0}, "step_rows=0: expected 16 to 512"),
            ({"step_rows": 96.0}, "step_rows=96.0: expected 16 to 512"),
            ({"step_rows": 2**40}, f"step_rows={2**40}: expected 16 to 512"),
        ]:
            with pytest.raises(ValueError, match=text):
                engine.tune(wrong)  # type: ignore[arg-type]


def test_the_command(model_path: Path, cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tune", "-m", str(model_path), "--seconds", "1", "--threads", "1", "--isa", ISA, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["values"] == json.loads(kept(cache)[0].read_text())["values"]
    assert "rows at once" in [m["what"] for m in document["measured"]]
    assert main(["tune", "-m", str(model_path), "--seconds", "1", "--threads", "1", "--isa", ISA]) == 0
    table = capsys.readouterr().out
    assert table.count("chosen") == len(document["measured"]) and "step_rows " in table
    assert main(["tune", "-m", str(model_path), "--seconds", "0"]) == 2
    # and the next load uses what was kept
    command = [
        sys.executable,
        "-m",
        "pellucid",
        "info",
        "-m",
        str(model_path),
        "--threads",
        "1",
        "--isa",
        ISA,
        "--json",
    ]
    info = json.loads(subprocess.run(command, capture_output=True, check=True, timeout=60).stdout)
    assert info["tuning"] == json.loads(kept(cache)[0].read_text())["values"]
    assert info["tuning_why"].startswith("measured earlier")


def test_the_command_where_nothing_can_be_kept(
    model_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PELLUCID_TUNE", "off")
    cache.write_bytes(b"a file where the folder should be")
    monkeypatch.setattr(tuning, "measure", None)  # is not called
    assert main(["tune", "-m", str(model_path), "--threads", "1"]) == 1
    assert f"{cache}/tuning: the result could not be kept there: not a directory" in capsys.readouterr().err


def test_a_model_whose_passes_take_longer(model_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three turns of each candidate, whatever the seconds; how long they take is said at the start."""
    said: list[str] = []

    def measured(*arguments: Any, long: bool) -> list[Any]:
        said.append(f"measured, {long=}")
        return []

    with Model.load(model_path, threads=1, isa=ISA) as model:
        monkeypatch.setattr(tune_module, "_pass", lambda engine, ids: 0.001)
        tune(model, 1, said.append)
        assert not said
        monkeypatch.setattr(tune_module, "_pass", lambda engine, ids: 2.0 if len(ids) > 4 else 0.001)
        monkeypatch.setattr(tuning, "measure", measured)
        found = tune(model, 1, said.append)
    long = sum(len(t.candidates) for t in found.timings if t.what not in SHORT)
    assert said[0].startswith("the passes of this model need longer: about ") and said[1] == "measured, long=True"
    assert int(said[0].split()[-4]) == pytest.approx(3 * 2 * long + 1, abs=1)


SHORT = ("prefetching before a barrier", "threads' shares of few rows")


def test_the_model_is_left_as_it_was(model_path: Path) -> None:
    with Model.load(model_path, threads=1) as model:
        before = model.logits([1, 2, 3])
        found = tune(model, 1)
        assert (model.logits([1, 2, 3]) == before).all()
        assert found.values.keys() == _engine.tuning_limits().keys()


def test_models_of_short_texts_and_such_that_see_later_tokens(tmp_path: Path) -> None:
    case = next(case for case in CASES if case.name == "bert")
    for path in (
        write_folder(case, load_golden(case), tmp_path / "bert"),
        write_gguf(TINY[0], tmp_path / "4", context=4),
    ):
        with Model.load(path, threads=1, isa=ISA) as model:
            found = tune(model, 1)
            assert {"rows at once", "prefetching before a barrier"} <= {timing.what for timing in found.timings}
