"""What a model computes beside the generations of another: passes as short as the other's `max_gap` asks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pellucid import Model
from pellucid.schedule import run
from pellucid.schedule.turns import Turns
from tests.embedding.cases import BY_NAME
from tests.embedding.files import TEXTS, load_golden, write_folder
from tests.engine import models
from tests.engine.models import same
from tests.schedule.test_turns import GREEDY, IDS


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return models.write(tmp_path_factory.mktemp("others"), "llama_gqa")


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """The rows of each sequence of each pass that is no generation's."""
    found: list[list[int]] = []
    forward = Turns._pass

    def noted(self: Turns, parts: Any, *rest: Any) -> Any:
        found.append([len(ids) for _, ids, _ in parts])
        return forward(self, parts, *rest)

    monkeypatch.setattr(Turns, "_pass", noted)
    return found


@pytest.mark.parametrize("name", ["bert", "qwen3_embedding"])
def test_texts_to_embed_beside_another_model(name: str, path: Path, tmp_path: Path, passes: list[list[int]]) -> None:
    """Of an encoder, which computes a text as a whole, one at a time; of others, a part; the same bits."""
    case = BY_NAME[name]
    folder = write_folder(case, load_golden(case), tmp_path / "m")
    texts = [text for text in TEXTS if len(text) > 1] * 4
    with Model.load(folder, threads=2) as embedder, Model.load(path, threads=2, max_gap=0.0) as model:
        many = [len(embedder.tokenize(text)) for text in texts]
        expected = embedder.embed(texts, pooling="mean")
        assert max(map(len, passes)) > 1 and max(map(sum, passes)) > 16
        with model.stream([1, 2], **GREEDY) as stream:
            next(stream)
            passes.clear()
            assert same(embedder.embed(texts, pooling="mean"), expected)
            for rows in passes:
                assert sum(rows) <= 16 or len(rows) == 1
            if name == "bert":
                assert sorted(n for rows in passes for n in rows) == sorted(many)
            else:
                assert max(map(sum, passes)) <= 16


def test_prompts_beside_another_model(path: Path) -> None:
    """The least `max_gap` of those that decode counts, and of models that do not decode, none."""
    with Model.load(path, threads=2, max_gap=0.0) as one, Model.load(path, threads=2, max_gap=60.0) as two:

        def passes(model: Model) -> int:
            before = model.stats().passes
            model.generate(IDS, max_tokens=1)
            return model.stats().passes - before

        assert passes(one) == passes(two) == 1
        with two.stream([1, 2], **GREEDY) as stream:
            next(stream)
            assert passes(one) <= 2  # the first beside others is not known to be short
            assert run._elsewhere(one.core) == 60.0 and run._elsewhere(two.core) is None
        with one.stream([1, 2], **GREEDY) as stream:
            next(stream)
            assert passes(two) >= len(IDS) // 16
            assert run._elsewhere(two.core) == 0.0


def test_models_that_compute_share_the_gap(path: Path) -> None:
    with (
        Model.load(path, threads=1, max_gap=0.6) as one,
        Model.load(path, threads=1) as two,
        Model.load(path, threads=1) as three,
    ):
        two.generate([1], max_tokens=1)
        three.generate([1], max_tokens=1)
        with one.stream([1, 2], **GREEDY) as stream:
            next(stream)
            assert run._elsewhere(two.core) == pytest.approx(0.6)
            with Turns(three.core, "embed", [4]):
                assert run._elsewhere(two.core) == pytest.approx(0.3)
        assert run._elsewhere(two.core) is None


def test_a_model_that_is_gone_counts_no_more(path: Path) -> None:
    with Model.load(path, threads=1) as one:
        with Model.load(path, threads=1) as two:
            stream = two.stream([1, 2], **GREEDY)
            next(stream)
            assert run._elsewhere(one.core) is not None
            stream.close()
        del two, stream
        assert run._elsewhere(one.core) is None
