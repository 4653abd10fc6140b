"""Words: Pellucid's table compared with the published pre-tokenizers, run by two implementations."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pellucid.text import Vocabulary
from pellucid.text.bpe import BpeTokenizer
from pellucid.text.words import LINEAR, WORDS, ascii_words, make_splitter
from tests.text.published import PUBLISHED, TEXTS, description

Splitters = dict[str, tuple[Any, Any]]
FAMILIES = list(PUBLISHED)
# Numbers to the Digits step of tokenizers 0.23, but not to its regular expressions: of Unicode 15 and later.
DISPUTED = "".join(map(chr, [*range(0x11DE0, 0x11DEA), *range(0x16FF4, 0x16FF7)]))
DENSE = " \n\r\t0123456789aAbB'sSlL./_-()|½٣²éÉ中の가ก\u0301\u00a0\u2028‘“IMG"
ANY = st.text(st.characters(exclude_categories=["Cs"], exclude_characters=DISPUTED))
RANDOM = st.text(DENSE, max_size=40) | ANY


@pytest.fixture(scope="module")
def splitters() -> Splitters:
    """Per family: Pellucid's splitter and the published one."""
    from tokenizers import Tokenizer, models

    def published(steps: list[object]) -> Any:
        shell = json.loads(Tokenizer(models.BPE()).to_str())
        shell["pre_tokenizer"] = json.loads(description(steps))
        return Tokenizer.from_str(json.dumps(shell)).pre_tokenizer

    return {names: (make_splitter(WORDS[names.split()[0]]), published(steps)) for names, steps in PUBLISHED.items()}


def words(splitter: Any, text: str) -> list[str]:
    return [word for word, _ in splitter.pre_tokenize_str(text)]


def test_every_name_has_its_family() -> None:
    named = {name: names for names in FAMILIES for name in names.split()}
    assert set(named) == set(WORDS)
    for name, names in named.items():
        assert WORDS[name].steps == WORDS[names.split()[0]].steps, name


def test_the_readme_counts_them() -> None:
    readme = (Path(__file__).resolve().parents[2] / "README.md").read_text(encoding="utf-8")
    assert f"the pre-tokenizers of {len(WORDS)} GGUF names" in readme


def test_flags() -> None:
    whole = {name for name, one in WORDS.items() if one.whole}
    llama3 = {"llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2", "jina-v5-nano"}
    assert whole == llama3 | {"tekken", "youtu", "minicpm5", "glm4", "glm5", "granite-embed-multi-97m"}
    assert {name for name, one in WORDS.items() if one.adds_bos} == llama3 | {"tekken", "chameleon"}


@pytest.mark.parametrize("names", FAMILIES)
def test_golden_words(splitters: Splitters, names: str) -> None:
    golden = json.loads(Path(__file__).with_name("golden_words.json").read_text())[names]
    for text, expected in zip(TEXTS, golden, strict=True):
        for splitter in splitters[names]:
            assert [len(word) for word in words(splitter, text)] == expected, text


@pytest.mark.parametrize("names", FAMILIES)
@settings(max_examples=60, deadline=None)
@given(text=RANDOM)
@example(text="½1234½12345678 123a 1234567é 12")
def test_random_text_is_cut_as_published(splitters: Splitters, names: str, text: str) -> None:
    ours, published = splitters[names]
    assert words(ours, text) == words(published, text)


@pytest.mark.parametrize("names", [names for names in FAMILIES if ascii_words(WORDS[names.split()[0]])])
@settings(max_examples=100, deadline=None)
@given(text=st.text(st.characters(max_codepoint=127)) | st.text("".join(filter(str.isascii, DENSE)), max_size=40))
def test_ascii_text_goes_another_way_to_the_same_words(splitters: Splitters, names: str, text: str) -> None:
    expression = ascii_words(WORDS[names.split()[0]])
    assert expression is not None
    found = expression.findall(text)
    assert "".join(found) == text
    assert [len(word) for word in found] == [len(word) for word in words(splitters[names][0], text)]


@pytest.mark.parametrize("published", LINEAR)
@settings(max_examples=300, deadline=None)
@given(text=st.text("0123456789 \n\r\u00a0a½_.²é", max_size=30))
@example(text="a \n b")
@example(text="½1234½12x345 123456 45")
def test_linear_forms_are_equal(published: str, text: str) -> None:
    from tokenizers import Regex, pre_tokenizers

    reference = pre_tokenizers.Split(Regex(published), behavior="isolated")
    steps = [pre_tokenizers.Split(Regex(one), behavior=behavior) for one, behavior in LINEAR[published]]
    assert words(pre_tokenizers.Sequence(steps), text) == words(reference, text)


def test_most_families_have_the_fast_way() -> None:
    assert {"gpt-2", "smollm", "llama-bpe", "qwen2", "qwen35", "gpt-4o", "tekken"} <= {
        name for name in WORDS if ascii_words(WORDS[name])
    }


@pytest.mark.parametrize("names", FAMILIES)
def test_long_runs_take_linear_time(splitters: Splitters, names: str) -> None:
    size = 100_000 if names.split()[0] in ("deepseek-llm", "tiny_aya", "afmoe", "superbpe") else 20_000
    text = "é" + "x".join(one * size for one in "1 \n-AaÉ中'") + "1" * size
    start = time.perf_counter()
    cut = splitters[names][0].pre_tokenize_str(text)
    assert sum(end - begin for _, (begin, end) in cut) == len(text)
    assert time.perf_counter() - start < 20  # measured: 0.1 to 1 s; what is quadratic takes minutes


def test_white_space_in_parts_takes_linear_time(splitters: Splitters) -> None:
    expression = ascii_words(WORDS["jais-2"])
    assert expression is not None
    text = "a" + " " * 3_000_000 + "a"
    parts = 3_000_000 // 512  # and the rest, the last space of which belongs to the word
    start = time.perf_counter()
    cut = splitters["jais-2"][0].pre_tokenize_str(text)
    found = expression.findall(text)
    assert time.perf_counter() - start < 20  # measured: 0.5 s; quadratic: three minutes each
    assert [end - begin for _, (begin, end) in cut] == [len(word) for word in found]
    assert [len(word) for word in found].count(512) == parts


# -- merges too: a vocabulary trained on the hard strings


@pytest.fixture(scope="module")
def trained() -> dict[str, Any]:
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(TEXTS * 2, trainers.BpeTrainer(vocab_size=2000, initial_alphabet=alphabet))
    model = json.loads(made.to_str())["model"]
    merges = [" ".join(one) if isinstance(one, list) else one for one in model["merges"]]
    return {"vocab": model["vocab"], "merges": merges}


@pytest.fixture(scope="module")
def pairs(trained: dict[str, Any], splitters: Splitters) -> dict[str, tuple[BpeTokenizer, Any]]:
    """Per family: Pellucid's tokenizer, and the package's with the published pre-tokenizer."""
    from tokenizers import Tokenizer, models

    made = {}
    pieces = sorted(trained["vocab"], key=trained["vocab"].__getitem__)
    merges = [tuple(merge.split(" ")) for merge in trained["merges"]]
    for names in FAMILIES:
        pre = names.split()[0]
        vocabulary = Vocabulary(
            model="bpe", pre=pre, pieces=pieces, merges=trained["merges"], types=np.ones(len(pieces), np.int32)
        )
        theirs = Tokenizer(models.BPE(trained["vocab"], merges, ignore_merges=WORDS[pre].whole))
        theirs.pre_tokenizer = splitters[names][1]
        made[names] = BpeTokenizer(vocabulary), theirs
    return made


@pytest.mark.parametrize("names", FAMILIES)
def test_ids_of_hard_strings(pairs: dict[str, tuple[BpeTokenizer, Any]], names: str) -> None:
    ours, theirs = pairs[names]
    for text in TEXTS:
        ids = ours.encode(text)
        assert ids == theirs.encode(text).ids, text
        assert ours.encode(text) == ids  # remembered words
        assert ours.decode(ids) == text


@pytest.mark.parametrize("names", FAMILIES)
@settings(max_examples=30, deadline=None)
@given(text=RANDOM)
def test_ids_of_random_text(pairs: dict[str, tuple[BpeTokenizer, Any]], names: str, text: str) -> None:
    ours, theirs = pairs[names]
    ids = ours.encode(text)
    assert ids == theirs.encode(text).ids
    assert ours.decode(ids) == text
    stream = [ours.piece(i) for i in ids]
    assert b"".join(stream) == text.encode()


def test_remembered_words_are_bounded(pairs: dict[str, tuple[BpeTokenizer, Any]]) -> None:
    ours, theirs = pairs[FAMILIES[0]]
    for start in range(0, 60_000, 20_000):
        text = " ".join(f"x{i:05d}" for i in range(start, start + 20_000)) + " " + "y" * 1000
        assert ours.encode(text) == theirs.encode(text).ids
        assert len(ours._known) <= 1 << 15
        assert max(map(len, ours._known), default=0) <= 32
