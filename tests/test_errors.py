"""Errors say where, what and what was expected, and survive pickling."""

from __future__ import annotations

import pickle

import pytest

from pellucid import errors

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
    (errors.ContextBusyError(), "the context is in use: one user at a time"),
    (errors.ClosedError(), "the model is closed"),
    (errors.FetchError("offline", name="m"), "offline"),
    (errors.IsaError("no such tier", isa="x"), "no such tier"),
    (errors.NumericsError("NaN in layer 3"), "NaN in layer 3"),
    (errors.OutOfMemoryError(needed=10), "out of memory (10 bytes needed)"),
]


@pytest.mark.parametrize("error, text", CASES, ids=[type(e).__name__ for e, _ in CASES])
def test_text_base_and_pickle(error, text):
    assert isinstance(error, errors.PellucidError)
    assert str(error) == text
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error)
    assert str(again) == text
    assert vars(again) == vars(error)


def test_every_class_is_listed_and_tested():
    classes = {c for c in vars(errors).values() if isinstance(c, type) and issubclass(c, errors.PellucidError)}
    assert {c.__name__ for c in classes} == set(errors.__all__)
    assert {type(e) for e, _ in CASES} == classes - {errors.PellucidError}


def test_out_of_memory_is_a_memory_error():
    assert issubclass(errors.OutOfMemoryError, MemoryError)
