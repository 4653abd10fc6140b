"""Models in pickles, and the processes that open them."""

from __future__ import annotations

import copy
import multiprocessing
import os
import pickle
import shutil
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import pytest

from pellucid import Model, _engine, pickled
from pellucid.errors import ModelFileError

IDS = [1, 2, 3]


def answer(model: Model) -> tuple[int, list[int]]:
    return os.getpid(), model.generate(IDS, max_tokens=4, temperature=0, ignore_eos=True).ids


@pytest.fixture
def path(tmp_path: Path) -> Path:
    from tests.reference.tiny import TINY, write_gguf

    return write_gguf(TINY[0], tmp_path / "tiny.gguf")


@pytest.mark.parametrize("folder", ["", "models/"])
def test_paths_hold_in_another_folder(folder: str, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the model and its draft; what is no path stays, even where a file has its name."""
    (path.parent / "models").mkdir()
    shutil.copy(path, path.parent / "models" / "draft.gguf")
    shutil.copy(path, path.parent / "draft.gguf")
    (path.parent / "f16").touch()
    monkeypatch.chdir(path.parent)
    with Model.load("tiny.gguf", draft=f"{folder}draft.gguf", kv="f16", threads=1) as model:
        data, expected = pickle.dumps(model), answer(model)
    (elsewhere := path.parent / "elsewhere").mkdir()
    monkeypatch.chdir(elsewhere)
    with pickle.loads(data) as again:
        assert again is not model and again.core.draft is not None and again.info().kv == "f16"
        assert answer(again) == expected


def test_names_stay_names(path: Path) -> None:
    """A draft that was pulled as owner/name is looked for by that name, wherever the pickle is opened."""
    assert pickled.Recipe(str(path), {"draft": "owner/name"}).arguments == {"draft": "owner/name"}


def test_a_tokenizer_that_was_used(smollm2: Path) -> None:
    """Compiled templates and grammars stay behind."""
    said = [{"role": "user", "content": "<|im_end|>"}]
    with Model.load(smollm2, threads=1) as model:
        model.chat(said, max_tokens=1, schema={"type": "object"})
        tokenizer = model.core.need_tokenizer()
        expected = tokenizer.chat().prompt(said)
        for again in (pickle.loads(pickle.dumps(tokenizer)), copy.deepcopy(tokenizer)):
            assert again.chat().prompt(said) == expected


def test_a_process_has_a_model_once(path: Path) -> None:
    with Model.load(path, context=64, threads=1) as model:
        data = pickle.dumps(model)
        assert len(data) < 1000
        assert pickle.loads(data) is model and copy.deepcopy([model])[0] is model
        with ThreadPoolExecutor(4) as threads:
            assert set(threads.map(pickle.loads, [data] * 8)) == {model}
    again = pickle.loads(data)
    assert again is not model and again.context_length == 64 and again.info().threads == 1
    assert pickle.loads(data) is again
    os.utime(path, (1, 1))
    assert pickle.loads(data) is not again  # another file


@pytest.mark.parametrize("method", ["spawn", "fork"])
def test_a_pool(method: str, path: Path) -> None:
    with Model.load(path, threads=1) as model:
        expected = answer(model)[1]
        with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context(method)) as pool:
            found = list(pool.map(answer, [model] * 6))
    assert all(ids == expected for _, ids in found)
    assert os.getpid() not in {pid for pid, _ in found}


def test_a_relative_path(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with Model.load(path.name) as model:
        data = pickle.dumps(model)
    monkeypatch.chdir("/")
    pickle.loads(data).close()


def test_a_file_that_is_not_here(path: Path) -> None:
    with Model.load(path) as model:
        data = pickle.dumps(model)
    shutil.move(path, path.with_name("elsewhere.gguf"))
    with pytest.raises(ModelFileError, match="No such file or directory: the model was pickled on") as caught:
        pickle.loads(data)
    assert caught.value.file == str(path)


def test_what_cannot_be_pickled(path: Path) -> None:
    with Model.load(path) as model, model.edit() as edit, model.context() as context:
        for one, says in ((edit, "a view with edits"), (edit.model, "a view with edits"), (context, "`save`")):
            with pytest.raises(TypeError, match=says):
                pickle.dumps(one)


@pytest.mark.parametrize("made", [_engine.Sampler(), _engine.Known(1, 0)])
def test_objects_of_the_engine(made: object) -> None:
    for attempt in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="cannot pickle"):
            attempt(made)
