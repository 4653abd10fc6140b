"""Errors state the place, the fault and what was expected, and can be pickled."""

from __future__ import annotations

import copy
import inspect
import pickle
import traceback
from pathlib import Path
from typing import Any

import pytest

from pellucid import Model, Tokenizer, errors
from pellucid.later import Later
from pellucid.schedule.room import NeverFits

CASES = [
    (
        errors.ModelFileError("it is 7", file="a.gguf", field="tensors[3].dims", offset=99, expected="1 to 4"),
        "a.gguf: tensors[3].dims (byte 99): it is 7; expected 1 to 4",
    ),
    (errors.ModelFileError("not found", file="a.gguf"), "a.gguf: not found"),
    (errors.ModelFileError("cut off", offset=4), "byte 4: cut off"),
    (errors.ModelFileError("bad"), "bad"),
    (
        errors.UnsupportedModelError(feature='architecture "x"', supported="llama"),
        'architecture "x" is not supported; supported: llama',
    ),
    (errors.TokenizerError("a lone surrogate", position=5), "a lone surrogate (at position 5)"),
    (errors.ChatTemplateError("unexpected 'end'", line=3), "unexpected 'end' (line 3 of the template)"),
    (errors.ContextFullError(needed=12, available=8), "the context is full: 12 tokens needed, 8 available"),
    (errors.BatchError("two failed", errors={}, completions=[None]), "two failed"),
    (errors.ContextBusyError(), "the context is in use: one user at a time"),
    (errors.CancelledError(), "the call was cancelled"),
    (errors.ClosedError(), "the model is closed"),
    (errors.QueueFullError(retry_after=2.5), "too many requests wait for the model"),
    (errors.FetchError("offline", name="m"), "offline"),
    (errors.IsaError("no such tier", isa="x"), "no such tier"),
    (errors.NumericsError("NaN in layer 3"), "NaN in layer 3"),
    (errors.OutOfMemoryError(needed=10), "out of memory (10 bytes needed)"),
    (errors.WrongValue("top_k", "=-1: expected at least 0"), "top_k=-1: expected at least 0"),
    (errors.GrammarError("expected a type", place="schema.properties.a"), "schema.properties.a: expected a type"),
    (errors.WrongType("stop", "[3]=5: expected a string, not int"), "stop[3]=5: expected a string, not int"),
]


@pytest.mark.parametrize("error, text", CASES, ids=[type(e).__name__ for e, _ in CASES])
def test_text_base_and_pickle(error, text):
    assert isinstance(error, (errors.PellucidError, errors.ArgumentError))
    assert str(error) == text
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error)
    assert str(again) == text
    assert vars(again) == vars(error)


def test_every_class_is_listed_and_tested():
    classes = {c for c in vars(errors).values() if isinstance(c, type) and issubclass(c, Exception)}
    assert {c.__name__ for c in classes} == set(errors.__all__)
    bases = {errors.PellucidError, errors.ArgumentError}
    assert {type(e) for e, _ in CASES} == classes - bases


def test_a_batch_keeps_each_error():
    error = errors.BatchError(
        "two", errors={2: errors.NumericsError("NaN"), 1: ValueError("no")}, completions=[1, None]
    )
    again = pickle.loads(pickle.dumps(error))
    assert {i: str(e) for i, e in again.errors.items()} == {1: "no", 2: "NaN"}
    assert again.completions == error.completions


def test_out_of_memory_is_a_memory_error():
    assert issubclass(errors.OutOfMemoryError, MemoryError)


def test_what_can_never_fit_is_said_again():
    error = NeverFits("no room", needed=9, tokens=5, available=3)
    ways: list[Any] = [copy.copy(error), errors.again(error), pickle.loads(pickle.dumps(error))]
    for one in ways:
        assert (type(one), str(one), one.needed) == (NeverFits, str(error), 9)
        assert (one.tokens, one.available) == (5, 3)


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("mmap.so: cannot open shared object file: Too many open files", "no file descriptor is left to load it"),
        ("mmap.so: failed to map segment from shared object", "no memory to load it"),
    ],
)
def test_a_module_without_room_is_out_of_memory(said: str, expected: str) -> None:
    with pytest.raises(errors.OutOfMemoryError, match=f"^{expected}: mmap cannot be loaded$"):
        with errors.out_of_memory("to load it"):
            raise ImportError(said, name="mmap")
    with pytest.raises(ImportError, match="no such module"):
        with errors.out_of_memory("to load it"):
            raise ImportError("no such module", name="mmap")


def test_a_tokenizer_that_lacks_memory_or_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def build(*_: Any) -> Any:
        raise ImportError("bpe.so: cannot open shared object file: Too many open files", name="bpe")

    from tests.weights import hostile

    path = tmp_path / "small.gguf"
    path.write_bytes(hostile.model().bytes())
    monkeypatch.setattr(Tokenizer, "from_gguf", build)
    with Model.load(path) as model:
        with pytest.raises(errors.OutOfMemoryError, match="no file descriptor is left to load the tokenizer"):
            model.generate("he", max_tokens=1)


def test_a_wrong_argument_is_a_value_error_or_a_type_error():
    assert issubclass(errors.WrongValue, ValueError) and issubclass(errors.WrongType, TypeError)


HOSTILE: list[Any] = [
    "two\nlines\r",
    "\x1b]0;a title\x07\x1b]52;c;aGk=\x07\x9b2J\x7f",
    "\u202e right to left \u2066\u200b\u2028\u2029\ufeff\U000e0041",
    "\ud800\udcff",
    "x" * 2000,
    "\x1b" * 100_000,
    "\U0010ffff" * 499,
    10**6000,
    b"\xff\n" * 300,
    None,
    ["\n"] * 1000,
]


@pytest.mark.parametrize("name", errors.__all__)
def test_the_text_is_one_printable_line(name):
    cls = getattr(errors, name)
    names = list(inspect.signature(cls).parameters)
    fillings = [dict.fromkeys(names, value) for value in HOSTILE]
    fillings += [{**dict.fromkeys(names, "ok"), one: value} for one in names for value in HOSTILE]
    for filling in fillings:
        if "file" in filling:  # a path is text or bytes
            filling["file"] = filling["file"] if isinstance(filling["file"], (str, bytes)) else Path("a\nb")
        if issubclass(cls, errors.ArgumentError):
            filling = {key: value if isinstance(value, str) else "" for key, value in filling.items()}
        error = cls(**filling)
        shown = traceback.format_exception_only(type(error), error)
        for text in (str(error), repr(error), shown[0].removesuffix("\n").partition(": ")[2]):
            assert text.isprintable() and len(text) <= errors.MOST, text
        assert len(shown) == 1
        for key, value in filling.items():
            if key != "file":
                assert getattr(error, key) is value
        assert str(pickle.loads(pickle.dumps(error))) == str(error)


def test_long_parts_are_shortened_and_short_ones_are_kept():
    error = errors.ModelFileError("m" * 900, file="/" + "d" * 900 + "/a.gguf", field="f", offset=7, expected="an end")
    text = str(error)
    assert errors.MOST - 5 < len(text) <= errors.MOST
    assert text.startswith("/ddd") and "/a.gguf: f (byte 7): mmm" in text and text.endswith("mmm; expected an end")
    assert error.message == "m" * 900


def test_one_line_and_shown():
    assert errors.one_line("a\tb\n\x1b[0m") == "a\\tb\\n\\x1b[0m"
    assert errors.one_line("abcdefghijkl", 9) == "abcd...kl"
    assert errors.shown("x" * 10**6) == "'" + "x" * 37 + "..." + "x" * 18 + "'"
    assert errors.shown(10**6000) == "(a huge number)"


def test_an_error_of_another_thread_does_not_grow() -> None:
    """Each time it was raised, its traceback took in the frames of another caller, and kept alive all that they had."""

    def make() -> None:
        raise errors.TokenizerError("broken")

    later, lengths = Later(make), []
    for _ in range(3):
        with pytest.raises(errors.TokenizerError, match="broken") as found:
            later.get()
        lengths.append(len(traceback.extract_tb(found.value.__traceback__)))
    assert len({*lengths}) == 1
