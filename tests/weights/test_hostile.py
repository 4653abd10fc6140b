"""Hostile model files, loaded and run: each is refused with a clear Pellucid error, or runs like any other model;
within a second, in little memory."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pellucid import Model, errors
from pellucid.errors import ModelFileError, NumericsError, PellucidError, UnsupportedModelError
from tests.weights import hostile
from tests.weights.headers import HEADERS, text
from tests.weights.hostile import MODELS, SCALES, Case, File
from tests.weights.using import bounded, refused, use

pytestmark = pytest.mark.usefixtures("warm")

# -- one thing wrong --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", HEADERS)
def test_unsound_headers(tmp_path: Path, name: str) -> None:
    raw, field, offset, expected = HEADERS[name]
    path = tmp_path / "bad.gguf"
    path.write_bytes(raw)
    error = refused(path)
    assert (error.file, error.field, error.offset) == (str(path), field, offset), str(error)
    assert error.expected is not None and expected in error.expected, str(error)


@pytest.mark.parametrize("arch", ["llama", "qwen3", "gemma3"])
@pytest.mark.parametrize("vocabulary", ["bpe", "spm"])
def test_the_sound_models_run(tmp_path: Path, arch: str, vocabulary: str) -> None:
    file = hostile.model(arch)
    getattr(hostile, vocabulary)(file)
    (tmp_path / "sound.gguf").write_bytes(file.bytes())
    with bounded():
        use(tmp_path / "sound.gguf")


@pytest.mark.parametrize("name", MODELS)
def test_models_with_one_thing_wrong(tmp_path: Path, name: str) -> None:
    case: Case = MODELS[name]
    file = hostile.model(case.arch)
    case.change(file)
    raw = file.bytes()
    path = tmp_path / "bad.gguf"
    path.write_bytes(raw)
    if case.error is None:
        with bounded():
            try:
                use(path)
            except NumericsError:
                assert case.outcome in ("numerics", "either")
            else:
                assert case.outcome in ("runs", "either")
        return
    error = refused(path, getattr(errors, case.error))
    assert case.words in str(error), str(error)
    if isinstance(error, ModelFileError):
        assert error.file == str(path) and (case.field is None or error.field == case.field), str(error)
        stated = [k for k in file.keys if k.decode() == error.field]
        stated += [t for t in file.tensors if t.decode() == error.field]
        if stated:  # what the file does say lies somewhere in it
            assert error.offset is not None and 0 < error.offset < len(raw), str(error)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 65504.0])
@pytest.mark.parametrize("kind", SCALES)
def test_scales_that_are_no_numbers(tmp_path: Path, kind: str, value: float) -> None:
    """In every place of a quantisation block that holds a scale, in a matrix used by every row and in one embedding."""
    bits = np.float16(value).tobytes()
    for name in ("blk.1.ffn_up.weight", "token_embd.weight"):
        for place in SCALES[kind]:
            file = hostile.model(kind=kind, dim=256, ff=256)
            tensor = file.tensors[name.encode()]
            tensor.data = tensor.data[:place] + bits + tensor.data[place + 2 :]
            (tmp_path / "bad.gguf").write_bytes(file.bytes())
            with bounded(2.0):
                if value == 65504.0:  # the largest there is: huge numbers, or too huge
                    try:
                        use(tmp_path / "bad.gguf")
                    except NumericsError:
                        continue
                else:
                    with pytest.raises(NumericsError):
                        use(tmp_path / "bad.gguf")


# -- cut short --------------------------------------------------------------------------------------------------------


def test_cut_short_anywhere(tmp_path: Path) -> None:
    """Truncated at the end of each key, value, name and tensor, a byte before and after it, and at random places."""
    file = hostile.model()
    whole = file.bytes()
    names = [*file.keys, *file.tensors]
    cuts = {whole.index(text(name)) + extra for name in names for extra in (0, 4, 8, 8 + len(name), 12)}
    cuts |= {whole.index(value) + len(value) + extra for _, value in file.keys.values() for extra in (-1, 0, 1)}
    rng = random.Random(6)
    cuts |= {1, 4, 8, 16, 23, 24, len(whole) - 1} | {rng.randrange(len(whole)) for _ in range(50)}
    path = tmp_path / "cut.gguf"
    for cut in sorted(c for c in cuts if 0 < c < len(whole)):
        path.write_bytes(whole[:cut])
        error = refused(path)
        assert error.file == str(path), cut
        if cut >= 4:
            assert error.offset is not None and error.offset <= len(whole), cut


# -- anything wrong ---------------------------------------------------------------------------------------------------


def survives(path: Path, raw: bytes) -> None:
    path.write_bytes(raw)
    with bounded():
        try:
            use(path)
        except PellucidError as error:
            assert type(error) is not PellucidError, str(error)
            assert "\n" not in str(error)


FUZZ = settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
SOUND = {arch: hostile.model(arch).bytes() for arch in ("llama", "gemma3")}
HEADER = {arch: raw.index(b"output_norm.weight") + 60 for arch, raw in SOUND.items()}


@FUZZ
@given(data=st.data())
def test_bytes_that_were_changed(tmp_path: Path, data: st.DataObject) -> None:
    """Bytes are set; pieces are cut out, repeated and moved, mostly within the header."""
    arch = data.draw(st.sampled_from(sorted(SOUND)))
    raw = bytearray(SOUND[arch])
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, HEADER[arch] if data.draw(st.integers(0, 3)) else len(raw)))
        kind = data.draw(st.sampled_from(["set", "set", "set", "flip", "cut", "repeat", "splice", "end"]))
        n = data.draw(st.integers(1, 64))
        if kind == "set":
            raw[at : at + 1] = bytes([data.draw(st.sampled_from([0, 1, 2, 0x7F, 0x80, 0xFF]) | st.integers(0, 255))])
        elif kind == "flip":
            raw[at : at + 1] = bytes(b ^ (1 << n % 8) for b in raw[at : at + 1])
        elif kind == "cut":
            del raw[at : at + n]
        elif kind == "repeat":
            raw[at:at] = raw[at : at + n]
        elif kind == "splice":
            place = data.draw(st.integers(0, HEADER[arch]))
            raw[at : at + n] = raw[place : place + n]
        elif data.draw(st.integers(0, 9)) == 0:
            del raw[at:]
    survives(tmp_path / "fuzz.gguf", bytes(raw))


NUMBER = st.sampled_from(
    [0, 1, 2, 3, 5, 7, 8, 16, 31, 32, 33, 64, 272, 255, 4096, 2**16, 2**24, 2**31 - 1, 2**31, 2**32 - 1]
)
REAL = st.sampled_from([0.0, -0.0, 1e-30, 1e-5, 0.5, 1.0, -1.0, 1e4, 1e30, 3e38, float("nan"), float("inf")])


@st.composite
def value(draw: st.DrawFn) -> tuple[int, bytes]:
    """A value of any type."""
    kind = draw(st.sampled_from([hostile.U32] * 4 + [*hostile._PACK, hostile.STRING, hostile.ARRAY]))
    if kind == hostile.ARRAY:
        of = draw(st.sampled_from([hostile.U32, hostile.I32, hostile.F32, hostile.STRING, hostile.BOOL]))
        n = draw(st.sampled_from([0, 1, 2, 261, 265, 300]))
        items = [draw(item(of)) for _ in range(min(n, 3))]
        return kind, hostile.array(of, (items * n)[:n] if items else [])
    return kind, hostile.scalar(kind, draw(item(kind)))


def item(kind: int) -> st.SearchStrategy[Any]:
    if kind == hostile.STRING:
        return st.sampled_from([b"", b"linear", b"gpt2", b"llama", b"spm", b"a", b"\xff", b"h e", b"x" * 70000, b"\0"])
    if kind in (hostile.F32, hostile.F64):
        return REAL
    if kind == hostile.BOOL:
        return st.integers(0, 2)
    bits = 8 * {"b": 1, "h": 2, "i": 4, "q": 8}[hostile._PACK[kind].lower()]
    signed = hostile._PACK[kind].islower()
    return NUMBER.map(lambda n: (n % (1 << (bits - 1))) - (n & 1 and signed) if signed else n % (1 << bits))


@st.composite
def structured(draw: st.DrawFn) -> File:
    """A model with some keys and tensors replaced."""
    file = hostile.model(draw(st.sampled_from(["llama", "gemma3", "qwen3"])))
    if draw(st.booleans()):
        hostile.spm(file)
    for _ in range(draw(st.integers(1, 3))):
        if draw(st.booleans()):
            name = draw(st.sampled_from(sorted(file.keys)))
            what = draw(st.sampled_from(["value", "value", "value", "drop"]))
            if what == "drop":
                del file.keys[name]
            else:
                file.keys[name] = draw(value())
            continue
        name = draw(st.sampled_from(sorted(file.tensors)))
        tensor = file.tensors[name]
        what = draw(st.sampled_from(["dims", "swap", "kind", "offset", "drop", "data", "of another"]))
        if what == "dims":
            tensor.dims = tuple(draw(st.lists(NUMBER, min_size=0, max_size=5)))
        elif what == "swap":
            tensor.dims = tuple(reversed(tensor.dims))
        elif what == "kind":
            tensor.kind = draw(st.integers(0, 45))
        elif what == "offset":
            tensor.offset = draw(NUMBER) * draw(st.sampled_from([1, 8, 32]))
        elif what == "drop" and len(file.tensors) > 1:
            del file.tensors[name]
        elif what == "data":
            tensor.data = draw(st.binary(min_size=4, max_size=4)) * (len(tensor.data) // 4)
        elif what == "of another":
            file.tensors[name] = file.tensors[draw(st.sampled_from(sorted(file.tensors)))]
    return file


@FUZZ
@given(file=structured())
def test_structures_that_were_changed(tmp_path: Path, file: File) -> None:
    survives(tmp_path / "fuzz.gguf", file.bytes())


def test_an_embedding_with_more_rows_than_the_vocabulary(tmp_path: Path) -> None:
    """Real models pad embeddings like this: such an id is a token like any other, but has no text."""
    (tmp_path / "padded.gguf").write_bytes(hostile.model().bytes())
    with Model.load(tmp_path / "padded.gguf", threads=1) as model:
        assert model.tokenizer is not None and model.tokenizer.vocab_size == 261 < model.info().vocab
        beyond = {270: 1000.0}
        done = model.generate("he", max_tokens=3, temperature=0, logprobs=2, logit_bias=beyond)
        assert (done.ids, done.text, done.logprobs[0].piece) == ([270] * 3, "", "")
        assert model.detokenize([257, 270, 257]) == "llll"
        assert model.generate([257, 271], max_tokens=1, echo=True, temperature=0).text.startswith("ll")
        for call in (model.detokenize, model.logits, model.generate):
            with pytest.raises(ValueError, match=r"\[0\]=272: .*vocabulary size 272"):
                call([272])


def test_names_that_would_write_to_a_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Escape sequences, line ends and very long texts in names of a file are printed escaped and truncated."""
    from pellucid.cli import main

    nasty = "\x1b]0;owned\x07\nline\u202e\x9b2J" + "x" * 3000
    file = hostile.model().set("general.name", hostile.STRING, nasty.encode())
    path = tmp_path / "nasty.gguf"
    path.write_bytes(file.bytes())
    assert main(["info", "-m", str(path)]) == 0
    out = capsys.readouterr().out
    assert r"\x1b]0;owned\x07\nline\u202e\x9b2J" in out and "\x1b" not in out and len(out) < 5000
    file = hostile.model().put(nasty[:900], [1.0])
    file.tensors[nasty[:900].encode()].offset = 8
    path.write_bytes(file.bytes())
    error = refused(path)
    assert error.field == f"{nasty[:900]}.offset" and r"\x1b]0;owned" in str(error) and "\x1b" not in str(error)
    file = hostile.model()
    file.set("general.architecture", hostile.STRING, nasty.encode())
    path.write_bytes(file.bytes())
    assert "\x1b" not in str(refused(path, UnsupportedModelError))
    assert main(["info", "-m", str(path)]) == 1
    assert "\x1b" not in capsys.readouterr().err
