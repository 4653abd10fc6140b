"""Prompts, options and the end of a generation, as the public interface promises."""

from __future__ import annotations

import math
import threading
from typing import Any

import numpy as np
import pytest

from pellucid import Model, look
from pellucid.errors import ContextFullError, TokenizerError

PROMPT = "The capital of France is"
GREEDY: dict[str, Any] = {"temperature": 0, "max_tokens": 12}


# ---- prompts --------------------------------------------------------------------------------------------------


def test_an_empty_prompt_begins_with_bos(smol: Any) -> None:
    assert smol.tokenizer is not None and smol.tokenizer.bos is not None
    bos = smol.tokenizer.bos
    expected = smol.generate([bos], **GREEDY)
    done = smol.generate("", **GREEDY)
    assert done.ids == expected.ids and done.prompt_tokens == 1
    context = smol.context()
    assert context.generate("", **GREEDY).ids == expected.ids
    assert context.ids == [bos, *expected.ids]


def test_prompts_that_are_nothing(ids_only: Any) -> None:
    with pytest.raises(ValueError, match="prompt is empty"):
        ids_only.generate(np.array([], np.int64))
    with pytest.raises(ValueError, match=r"prompt\[1\] is empty"):
        ids_only.generate([[1], []])
    with pytest.raises(ValueError, match="there is nothing to continue"):
        ids_only.context().generate()
    with pytest.raises(ValueError, match="ids is empty"):
        ids_only.logits([])


def test_no_bos_to_begin_with(smol: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(smol.tokenizer), "bos", None)
    with pytest.raises(ValueError, match="BOS"):
        smol.generate("")
    with pytest.raises(ValueError, match="BOS"):
        smol.context().generate("")


@pytest.mark.parametrize(
    "text", ["a\0b", "\0", "👩‍👩‍👧‍👦 naïve é", "שלום עולם", "مرحبا ١٢٣", "é" * 50, "\u202eabc\ufeff", " \n\t  x"]
)
def test_text_comes_back(smol: Any, text: str) -> None:
    ids = smol.tokenize(text)
    assert smol.detokenize(ids) == text
    done = smol.generate(text, echo=True, max_tokens=2, temperature=0)
    assert done.text.startswith(text)
    assert done.prompt_tokens == len(ids)
    with smol.context() as context:
        again = context.generate(ids, echo=True, max_tokens=2, temperature=0)
    assert (again.text, again.echoed) == (done.text, done.echoed)


def test_lone_surrogates(smol: Any) -> None:
    for use in (smol.tokenize, smol.generate, lambda text: smol.context().append(text)):
        with pytest.raises(TokenizerError) as caught:
            use("ab\ud800c")
        assert caught.value.position == 2 and "position 2" in str(caught.value)
    uses = {
        "ids": lambda text: smol.context().append(text),
        "prompt": lambda text: smol.context().generate(text),
        "prediction": lambda text: smol.generate("a", prediction=text),
        "instruction": lambda text: smol.embed("a", pooling="mean", instruction=text),
        "query": lambda text: smol.rerank(text, ["a"]),
        "documents[1]": lambda text: smol.rerank("a", ["b", text]),
        "continuations[0]": lambda text: smol.context().score([text]),
        "clean": lambda text: look.patching(smol, text, "a", 1),
        "metric": lambda text: look.patching(smol, "a", "b", text),
        "token": lambda text: smol.trace("a").attribution(-1, text),
    }
    for name, use in uses.items():
        with pytest.raises(TokenizerError) as caught:
            use("ab\ud800c")
        assert str(caught.value).startswith(f"{name}: the text has a lone surrogate"), name
        assert caught.value.position == 2, name


def test_special_tokens_in_a_prompt_are_text(smol: Any) -> None:
    text = "<|im_start|>user"
    special = smol.tokenize(text, parse_special=True)
    plain = smol.tokenize(text)
    assert len(plain) > len(special) and special[0] not in plain
    assert smol.generate(text, **GREEDY).prompt_tokens == len(plain)
    assert smol.detokenize(plain) == text


@pytest.mark.parametrize("bad", [97, -1, 2**31, 2**40, -(2**63)])
def test_ids_out_of_range(ids_only: Any, bad: int) -> None:
    context = ids_only.context()
    context.append([1])
    for use in (ids_only.generate, ids_only.logits, context.append, context.generate, ids_only.stream):
        with pytest.raises(ValueError) as caught:
            use([3, bad])
        assert str(bad) in str(caught.value) and "97" in str(caught.value) and "[1]" in str(caught.value)
    assert context.length == 1
    with pytest.raises(ValueError, match=rf"stop_ids\[0\]={bad}: "):
        ids_only.generate([1], stop_ids=[bad])
    with pytest.raises(
        ValueError, match=rf"logit_bias\[{bad}\]: token ids go from 0 to 96|logit_bias's token id={bad}"
    ):
        ids_only.generate([1], logit_bias={3: 1.0, bad: 1.0})


def test_wrong_kinds_of_prompt(ids_only: Any, smol: Any) -> None:
    for bad in (None, 5, 1.5, {"a": 1}.values, object()):
        with pytest.raises(TypeError, match="prompt"):
            ids_only.generate(bad)
    for bad_ids in ([1.0], [True], [None, 1], b"ab"):
        with pytest.raises((TypeError, ValueError), match="prompt"):
            ids_only.generate(bad_ids)
    with pytest.raises(TokenizerError, match="no tokenizer"):
        ids_only.generate("text")
    with pytest.raises(TokenizerError, match="stop_ids"):
        ids_only.generate([1], stop="x")
    context = ids_only.context()
    with pytest.raises(TokenizerError):
        context.generate([1, 2], stop="x")
    assert context.length == 0
    with pytest.raises(TypeError, match="text"):
        smol.logits("text")
    for use in (smol.logits, smol.detokenize):  # which take no text, and do not say so
        with pytest.raises(TypeError, match="^ids must be a list of token ids, not NoneType"):
            use(None)
    with pytest.raises(TypeError, match=r"^prompt\[0\]\[0\] must be a token id, not ndarray"):
        ids_only.generate(np.array([[[1, 2]]]))


def test_arrays_of_ids(ids_only: Any) -> None:
    ids = [3, 1, 4, 1, 5]
    expected = ids_only.logits(ids)
    for dtype in (np.int32, np.int64, np.uint8):
        array = np.array(ids, dtype)
        assert np.array_equal(ids_only.logits(array), expected)
        several = ids_only.logits([array, array[:1]])
        assert np.array_equal(several[0], expected) and np.array_equal(several[1], expected[:1])
        assert ids_only.generate(array, **GREEDY).ids == ids_only.generate(ids, **GREEDY).ids
        assert [c.ids for c in ids_only.generate([array[:1], array], **GREEDY)] == [
            ids_only.generate(part, **GREEDY).ids for part in (ids[:1], ids)
        ]
    both = ids_only.logits(np.array([ids, ids[::-1]]))
    assert len(both) == 2 and np.array_equal(both[0], expected)
    with pytest.raises(TypeError, match=r"^ids\[0\]\[0\] must be a token id, not ndarray"):
        ids_only.logits(np.zeros((2, 2, 2), np.int32))


def test_lists_of_prompts(smol: Any) -> None:
    prompts = [PROMPT, "Once upon a time", smol.tokenize("def f(x):"), "", PROMPT]
    for options in (GREEDY, {"seed": 7, "max_tokens": 10, "temperature": 1.0, "logprobs": 2}):
        for extra in ({}, {"chunk": 4}):
            together = smol.generate(prompts, **options, **extra)
            alone = [smol.generate(p, **options) for p in prompts]
            for a, b in zip(together, alone, strict=True):
                assert (a.ids, a.text, a.finish_reason, a.prompt_tokens, a.logprobs) == (
                    b.ids, b.text, b.finish_reason, b.prompt_tokens, b.logprobs,
                )  # fmt: skip
    draws = smol.generate(["Once upon a time"] * 4, temperature=1.5, top_k=0, top_p=1, min_p=0, max_tokens=12)
    assert len({tuple(c.ids) for c in draws}) > 1  # without a seed, each draws its own


# ---- the end --------------------------------------------------------------------------------------------------


def test_max_tokens(smol: Any) -> None:
    none = smol.generate(PROMPT, max_tokens=0)
    assert (none.ids, none.text, none.finish_reason, none.logprobs) == ([], "", "length", [])
    assert smol.generate(PROMPT, max_tokens=0, echo=True).text == PROMPT
    long = smol.generate(PROMPT, temperature=0, max_tokens=20)
    for n in (1, 2, 19):
        done = smol.generate(PROMPT, temperature=0, max_tokens=n)
        assert done.ids == long.ids[:n] and done.finish_reason == "length"
        assert long.text.startswith(done.text) and done.timings.decode_tokens == n - 1


def test_greedy_is_the_most_probable(smol: Any) -> None:
    ids = smol.tokenize(PROMPT)
    done = smol.generate(PROMPT, temperature=0, max_tokens=8)
    logits = smol.logits(ids + done.ids)
    assert done.ids == [int(i) for i in logits[len(ids) - 1 : -1].argmax(1)]
    assert smol.generate(PROMPT, top_k=1, max_tokens=8, seed=1).ids == done.ids


def test_log_probabilities(smol: Any) -> None:
    ids = smol.tokenize(PROMPT)
    for options in (
        {"temperature": 0},
        {"temperature": 1.3, "seed": 3, "repeat_penalty": 1.5, "logit_bias": {300: 5.0}},
    ):
        done = smol.generate(PROMPT, max_tokens=10, logprobs=5, **options)
        logits = smol.logits(ids + done.ids)[len(ids) - 1 : -1].astype(np.float64)
        expected = logits - logits.max(1, keepdims=True)
        expected -= np.log(np.exp(expected).sum(1, keepdims=True))
        assert [t.id for t in done.logprobs] == done.ids
        for row, token in zip(expected, done.logprobs, strict=True):
            assert abs(token.logprob - row[token.id]) < 1e-4
            assert [i for i, _, _ in token.top] == [int(i) for i in np.argsort(-row, kind="stable")[:5]]
            for i, piece, p in token.top:
                assert abs(p - row[i]) < 1e-4
                assert piece == smol.tokenizer.piece(i, special=True).decode("utf-8", "replace")
            assert sum(np.exp(p) for _, _, p in token.top) <= 1 + 1e-5
    assert smol.generate(PROMPT, **GREEDY).logprobs == []


def test_logprobs_of_the_whole_vocabulary(ids_only: Any) -> None:
    for asked in (97, 500):
        token = ids_only.generate([1, 2], max_tokens=1, logprobs=asked).logprobs[0]
        assert sorted(i for i, _, _ in token.top) == list(range(97))
        assert abs(sum(np.exp(p) for _, _, p in token.top) - 1) < 1e-4


def test_without_the_cache(smol: Any, ids_only: Any) -> None:
    for model, prompt in ((smol, PROMPT), (ids_only, [5, 6, 7])):
        for options in ({"temperature": 0}, {"seed": 5, "repeat_penalty": 1.2}):
            kept, again = (
                model.generate(prompt, max_tokens=9, logprobs=2, cache=cache, **options) for cache in (True, False)
            )
            assert kept.ids == again.ids and kept.logprobs == again.logprobs and kept.text == again.text
    context, other = ids_only.context(), ids_only.context()
    for _ in range(2):
        assert context.generate([8], cache=False, **GREEDY).ids == other.generate([8], **GREEDY).ids
    assert context.ids == other.ids


def test_seeds(smol: Any, smollm2: Any) -> None:
    options: dict[str, Any] = {
        "max_tokens": 15,
        "temperature": 1.2,
        "top_k": 0,
        "top_p": 1.0,
        "min_p": 0.0,
        "logprobs": 1,
    }
    first = smol.generate(PROMPT, seed=11, **options)
    assert smol.generate(PROMPT, seed=11, chunk=2, **options).logprobs == first.logprobs
    assert smol.generate(PROMPT, seed=12, **options).ids != first.ids
    assert smol.generate(PROMPT, **options).ids != smol.generate(PROMPT, **options).ids
    assert smol.generate([PROMPT, "x"], seed=11, **options)[0].logprobs == first.logprobs
    for threads in (1, 3):
        with Model.load(smollm2, threads=threads) as other:
            assert other.generate(PROMPT, seed=11, **options).logprobs == first.logprobs


def test_stop_strings(smol: Any) -> None:
    whole = smol.generate(PROMPT, temperature=0, max_tokens=30)
    text = whole.text
    for start in range(0, len(text) - 7, 8):
        for length in (1, 2, 7):  # within a token, and over the border of two
            stop = text[start : start + length]
            done = smol.generate(PROMPT, temperature=0, max_tokens=30, stop=["\u2603", stop])
            assert done.finish_reason == "stop"
            assert done.text == text[: text.index(stop)]
            assert smol.detokenize(done.ids) == done.text
            pieces = list(smol.stream(PROMPT, temperature=0, max_tokens=30, stop=stop)) if length == 7 else []
            assert "".join(p.text for p in pieces) == (done.text if pieces else "")
    # The beginning of a stop string that does not come is text in the end.
    last = text[-3:]
    assert smol.generate(PROMPT, temperature=0, max_tokens=30, stop=last + "\u2603").text == text


def test_stop_ids_and_the_end_of_sequence(smol: Any) -> None:
    whole = smol.generate(PROMPT, temperature=0, max_tokens=12)
    at = next(i for i in range(3, 12) if whole.ids[i] not in whole.ids[:i])
    done = smol.generate(PROMPT, temperature=0, max_tokens=12, stop_ids=[whole.ids[at]])
    assert (done.ids, done.finish_reason) == (whole.ids[:at], "stop")
    assert smol.tokenizer is not None
    eos = smol.tokenizer.eos
    assert eos is not None
    bias = {eos: 1000.0}
    ended = smol.generate(PROMPT, max_tokens=12, logit_bias=bias)
    assert (ended.ids, ended.text, ended.finish_reason) == ([], "", "eos")
    ignored = smol.generate(PROMPT, max_tokens=3, logit_bias=bias, ignore_eos=True)
    assert (ignored.ids, ignored.finish_reason) == ([eos] * 3, "length")


def test_a_context_that_fills(ids_only: Any) -> None:
    n = ids_only.context_length
    assert n == 64
    prompt = [(3 * i) % 97 for i in range(n)]
    for length in (n, n - 1, n - 5, 1):
        done = ids_only.generate(prompt[:length], temperature=0, max_tokens=1000)
        assert done.finish_reason == "context" and len(done.ids) == n - length + 1
        assert ids_only.generate(prompt[:length], temperature=0, max_tokens=n - length + 1).finish_reason == "length"
        with pytest.raises(ContextFullError) as caught:
            ids_only.generate(prompt[:length], temperature=0, max_tokens=1000, on_full="error")
        assert (caught.value.needed, caught.value.available) == (n + 1, n)
    with pytest.raises(ContextFullError) as caught:
        ids_only.generate([*prompt, 1])
    assert (
        (caught.value.needed, caught.value.available) == (n + 1, n)
        and "65" in str(caught.value)
        and "64" in str(caught.value)
    )
    context = ids_only.context()
    full = context.generate(prompt, max_tokens=5, temperature=0)
    assert full.finish_reason == "context" and full.ids == ids_only.generate(prompt, max_tokens=1, temperature=0).ids
    with pytest.raises(ContextFullError):
        context.generate()
    context.rewind(n)
    assert context.generate(max_tokens=1, temperature=0).ids == full.ids
    lists = ids_only.generate([prompt, prompt[:3]], temperature=0, max_tokens=20)
    assert [c.finish_reason for c in lists] == ["context", "length"]


def test_a_prompt_far_too_long_is_refused_at_once(smol: Any) -> None:
    text = "hello world " * 9000  # 108,000 characters
    with pytest.raises(ContextFullError) as caught:
        smol.generate(text)
    assert caught.value.available == smol.context_length and caught.value.needed == len(smol.tokenize(text))
    with pytest.raises(ContextFullError):
        smol.context().append(text)
    assert smol.core.engine.info()["cache_bytes_used"] == 0


def test_cancelling(smol: Any) -> None:
    for cancel in (lambda: True, threading.Event()):
        if isinstance(cancel, threading.Event):
            cancel.set()
        done = smol.generate(PROMPT, cancel=cancel)
        assert (done.ids, done.text, done.finish_reason) == ([], "", "cancelled")
    event = threading.Event()
    pieces = []
    for piece in smol.stream(PROMPT, cancel=event, temperature=0, max_tokens=50):
        pieces.append(piece)
        if len(pieces) == 3:
            event.set()
    assert pieces[-1].finish_reason == "cancelled" and sum(len(p.ids) for p in pieces) == 3
    both = smol.generate([PROMPT, "x"], cancel=event)
    assert [c.finish_reason for c in both] == ["cancelled"] * 2
    context = smol.context()
    context.append(PROMPT, cancel=event)
    assert context.length == 0


def test_timings_count_tokens_of_the_prompt_that_were_computed(smol: Any) -> None:
    for options, computed in (
        ({"max_tokens": 0}, 0),
        ({"choice": ["Paris"]}, 0),  # all that is decided without a draw
        ({"choice": ["Paris", "London"]}, 5),
        ({"max_tokens": 1}, 5),
        ({"max_tokens": 4, "cache": False}, 5),
        ({"cancel": lambda: True}, 0),
    ):
        smol.clear_cache()
        done = smol.generate(PROMPT, **options)
        assert done.timings.prefill_tokens == computed, options
        assert (done.timings.prefill_rate > 0) == (computed > 0)
    smol.clear_cache()
    before = smol.stats().rows
    several = smol.generate(PROMPT, n=3, max_tokens=1, seed=1)
    assert sum(done.timings.prefill_tokens for done in several) == smol.stats().rows - before


# ---- streams and contexts -------------------------------------------------------------------------------------


def test_a_stream_is_its_completion(smol: Any) -> None:
    for options in (GREEDY, {"seed": 2, "max_tokens": 20, "echo": True, "stop": ["."]}):
        pieces = list(smol.stream("Smile 😀! 你好", **options))
        done = smol.generate("Smile 😀! 你好", **options)
        assert "".join(p.text for p in pieces) == done.text
        assert [i for p in pieces for i in p.ids] == done.ids
        assert [p.finish_reason for p in pieces[:-1]] == [None] * (len(pieces) - 1)
        assert pieces[-1].finish_reason == done.finish_reason and pieces[-1].prompt_tokens == done.prompt_tokens


def test_a_context_computes_only_what_is_new(smol: Any) -> None:
    context = smol.context()
    options = {**GREEDY, "ignore_eos": True}
    first = context.generate(PROMPT, **options)
    held = context.length
    assert context.ids == smol.tokenize(PROMPT) + first.ids
    assert context._sequence.length == held - 1  # the last token's turn comes with the next pass
    seen = context._sequence.length
    second = context.generate(" And of Spain?", **options)
    new = smol.tokenize(" And of Spain?")
    assert second.prompt_tokens == second.timings.prefill_tokens == len(new)
    assert context._sequence.length == seen + 1 + len(new) + len(second.ids) - 1
    whole = smol.generate(context.ids[: held + len(new)], **options)
    assert second.ids == whole.ids
    # going on without a prompt is as if it had not stopped
    more = context.generate(**options)
    assert smol.generate(context.ids[: held + len(new)], **{**options, "max_tokens": 24}).ids == second.ids + more.ids


def test_a_context_goes_on_after_append_fork_and_rewind(ids_only: Any) -> None:
    context = ids_only.context()
    context.append([1, 2, 3])
    fork = context.fork()
    expected = ids_only.generate([1, 2, 3], **GREEDY).ids
    assert context.generate(**GREEDY).ids == expected
    assert fork.length == 3
    assert fork.generate([4], **GREEDY).ids == ids_only.generate([1, 2, 3, 4], **GREEDY).ids
    context.rewind(2)
    assert context.generate([3], **GREEDY).ids == expected
    context.rewind(0)
    assert context.generate([1, 2, 3, 4], **GREEDY).ids == ids_only.generate([1, 2, 3, 4], **GREEDY).ids
    for n, error in ((-1, ValueError), (99, ValueError), (True, TypeError), (1.0, TypeError)):
        with pytest.raises(error, match="n"):
            context.rewind(n)


# ---- options --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"temprature": 1}, TypeError, "temprature.*did you mean 'temperature'"),
        ({"max_token": 1}, TypeError, "did you mean 'max_tokens'"),
        ({"topk": 1}, TypeError, "did you mean 'top_k'"),
        ({"max_tokens": -1}, ValueError, "max_tokens=-1"),
        ({"max_tokens": 1.5}, TypeError, "max_tokens"),
        ({"temperature": float("nan")}, ValueError, "temperature"),
        ({"temperature": "hot"}, TypeError, "temperature"),
        ({"top_p": 1.5}, ValueError, "top_p"),
        ({"stop": [""]}, ValueError, r"stop\[0\]"),
        ({"stop": 5}, TypeError, "stop"),
        ({"seed": -1}, ValueError, "seed"),
        ({"repeat_penalty": 1e-30}, ValueError, "repeat_penalty=1e-30: expected 0"),
        ({"logit_bias": dict.fromkeys(range(97), -math.inf)}, ValueError, "logit_bias forbids every token"),
        ({"chunk": 0}, ValueError, "chunk"),
        ({"on_full": "explode"}, ValueError, "on_full"),
        ({"cancel": 3}, TypeError, "cancel"),
        ({"logprobs": -1}, ValueError, "logprobs"),
        ({"echo": "yes"}, TypeError, "echo"),
    ],
)
def test_wrong_options(ids_only: Any, options: dict[str, Any], error: type[Exception], words: str) -> None:
    context = ids_only.context()
    for use in (ids_only.generate, ids_only.stream, context.generate, context.stream):
        with pytest.raises(error, match=words):
            use([1, 2], **options)
    assert context.length == 0
    assert len(context.generate([1, 2], max_tokens=1).ids) == 1  # and is not in use


def test_wrong_options_of_loading(smollm2: Any) -> None:
    for options, error in (
        ({"threads": 0}, ValueError), ({"threads": 2.0}, TypeError), ({"threads": 5000}, ValueError),
        ({"context": 0}, ValueError),
        ({"context": 10**9}, ValueError), ({"kv": "f8"}, ValueError), ({"precision": "low"}, ValueError),
        ({"precision": ["high"]}, TypeError), ({"progress": 5}, TypeError),
    ):  # fmt: skip
        with pytest.raises(error, match=next(iter(options))):
            Model.load(smollm2, **options)
    with pytest.raises(TypeError, match="source"):
        Model.load(5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="source is empty"):
        Model.load("")
