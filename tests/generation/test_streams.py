"""Streams, options as an object, and calls with several prompts."""

from __future__ import annotations

import copy
import gc
import pickle
import threading
from typing import Any

import numpy as np
import pytest

from pellucid import BatchStream, Completion, Model, SamplingOptions, Stream
from pellucid.errors import BatchError, ClosedError, ContextBusyError, ContextFullError, NumericsError
from pellucid.options import TEMPLATE_DEFAULTS
from pellucid.results import Gathered
from pellucid.schedule.scheduler import Scheduler

OPTIONS: dict[str, Any] = {"max_tokens": 9, "seed": 5, "temperature": 1.0, "ignore_eos": True}
USER = [{"role": "user", "content": "Hi"}]


def same(a: Completion, b: Completion) -> bool:
    return (a.text, a.ids, a.logprobs, a.finish_reason, a.seed, a.prompt_ids, a.options) == (
        b.text, b.ids, b.logprobs, b.finish_reason, b.seed, b.prompt_ids, b.options,
    )  # fmt: skip


# ---- one stream ---------------------------------------------------------------------------------------------------


def streams(model: Model) -> dict[str, Stream]:
    edit = model.edit()
    return {
        "model": model.stream("Hi", **OPTIONS),
        "context": model.context().stream("Hi", **OPTIONS),
        "edit": edit.stream("Hi", **OPTIONS),
        "model's chat": model.chat(USER, stream=True, **OPTIONS),
        "context's chat": model.context().chat(USER, stream=True, **OPTIONS),
        "edit's chat": edit.chat(USER, stream=True, **OPTIONS),
    }


def test_a_stream_gives_its_text_and_its_result(smol: Model) -> None:
    for name, stream in streams(smol).items():
        assert isinstance(stream, Stream) and stream.text == "" and iter(stream) is stream, name
        first = next(stream)
        assert stream.text == first.text
        done = stream.result()
        whole = smol.chat(USER, **OPTIONS) if "chat" in name else smol.generate("Hi", **OPTIONS)
        assert same(done, whole), name
        assert stream.text == done.text and list(stream) == [] and same(stream.result(), done)


def test_a_stream_that_is_closed_early(smol: Model) -> None:
    for name, stream in streams(smol).items():
        with stream:
            taken = [next(stream), next(stream)]
        done = stream.result()
        assert (done.finish_reason, done.ids) == ("cancelled", [*taken[0].ids, *taken[1].ids]), name
        assert list(stream) == []
        stream.close()
    never = smol.stream("Hi", **OPTIONS)
    never.close()
    assert (never.result().ids, never.result().finish_reason) == ([], "cancelled")


def test_a_context_is_in_use_until_its_stream_is_closed(smol: Model) -> None:
    context = smol.context()
    for end in (Stream.close, Stream.result, lambda stream: stream.__exit__(None, None, None)):
        for start in (lambda: context.stream("Hi", **OPTIONS), lambda: context.chat(USER, stream=True, **OPTIONS)):
            stream = start()
            next(stream)
            with pytest.raises(ContextBusyError):
                context.append("more")
            end(stream)
            context.append("more")
    stream = context.stream("Hi", **OPTIONS)
    next(stream)
    del stream
    gc.collect()
    context.append("more")


def test_a_stream_has_one_user_at_a_time(smol: Model) -> None:
    inside, leave = threading.Event(), threading.Event()

    def cancel() -> bool:
        inside.set()
        leave.wait(60)
        return False

    stream = smol.stream("Hi", cancel=cancel, **OPTIONS)
    thread = threading.Thread(target=stream.result)
    thread.start()
    assert inside.wait(60)
    for use in (lambda: next(stream), stream.close, stream.result):
        with pytest.raises(ContextBusyError, match="the stream is in use by another thread"):
            use()
    leave.set()
    thread.join()
    assert stream.result().finish_reason == "length"


@pytest.mark.parametrize("by", ["result", "next"])
def test_an_interrupt_between_two_pieces(smol: Model, monkeypatch: pytest.MonkeyPatch, by: str) -> None:
    """It may have lost one: there is no result without it."""
    context = smol.context()
    several = smol.stream(["Hi", "Ho"], **OPTIONS)
    real = Gathered.add
    made: list[Any] = [*streams(smol).values(), context.stream("Hi", **OPTIONS), several]
    for stream in made:
        left = [None] * 3

        def add(self: Gathered, piece: Any, left: list[None] = left) -> None:
            left.pop()
            if not left:
                raise KeyboardInterrupt
            real(self, piece)

        monkeypatch.setattr(Gathered, "add", add)
        with pytest.raises(KeyboardInterrupt):
            if by == "result":
                stream.result()
            for _ in stream:
                pass
        monkeypatch.setattr(Gathered, "add", real)
        for _ in range(2):
            with pytest.raises(ClosedError, match="interrupted"):
                stream.result()
        assert not list(stream)
    assert context.generate("Hi", **OPTIONS).ids  # which is free again


def test_the_result_of_a_stream_that_failed(ids_only: Model) -> None:
    stream = ids_only.stream([1] * 60, max_tokens=None, ignore_eos=True, on_full="error")
    with pytest.raises(ContextFullError):
        list(stream)
    for _ in range(2):
        with pytest.raises(ContextFullError):
            stream.result()
    stream.close()


def test_neither_copied_nor_pickled(smol: Model) -> None:
    """A copy would end the generation of the first."""
    expected = smol.generate("Once upon a time", max_tokens=6, temperature=0).text
    with smol.context() as context:
        for running in (
            smol.submit("Once upon a time", max_tokens=6, temperature=0),
            context.stream("Once upon a time", max_tokens=6, temperature=0),
        ):
            first = next(running)
            for way in (copy.copy, copy.deepcopy, pickle.dumps):
                with pytest.raises(TypeError, match="can be neither pickled nor copied"):
                    way(running)
            assert first.text + "".join(piece.text for piece in running) == expected


# ---- options ------------------------------------------------------------------------------------------------------


def test_options_of_a_completion_give_it_again(smol: Model) -> None:
    drawn = smol.generate("Once upon a time", temperature=1.5, max_tokens=9, cancel=threading.Event(), logprobs=2)
    assert 0 <= drawn.seed < 2**64 and drawn.options.seed == drawn.seed and drawn.options.cancel is None
    assert same(smol.generate("Once upon a time", options=drawn.options), drawn)
    assert drawn.to_dict()["seed"] == drawn.seed
    assert same(pickle.loads(pickle.dumps(drawn)), drawn)


def test_an_object_of_options_serves_many_calls(smol: Model) -> None:
    options = SamplingOptions(max_tokens=6, temperature=1.5, top_k=0, top_p=1, min_p=0)
    assert len({smol.generate("Hi", options=options).seed for _ in range(3)}) == 3
    fixed = options.replace(seed=np.int64(4))
    context, edit = smol.context(), smol.edit()
    for done in (
        smol.generate("Hi", options=fixed),
        smol.stream("Hi", options=options, seed=4).result(),
        context.generate("Hi", options=fixed),
        edit.generate("Hi", options=fixed),
        smol.generate(["Hi"], options=fixed)[0],
    ):
        assert same(done, smol.generate("Hi", max_tokens=6, temperature=1.5, top_k=0, top_p=1, min_p=0, seed=4))
    with pytest.raises(TypeError, match="^options must be a SamplingOptions, not dict"):
        smol.generate("Hi", options={"seed": 4})  # type: ignore[call-overload]


def test_max_tokens_of_none_is_as_many_as_fit(ids_only: Model, smollm2: Any) -> None:
    assert ids_only.generate([1], ignore_eos=True, max_tokens=None).finish_reason == "context"
    with Model.load(smollm2, context=200) as model:
        for chat in (model.chat, model.context().chat, model.edit().chat):
            done = chat(USER, ignore_eos=True, options=SamplingOptions(temperature=0))
            assert done.finish_reason == "context" and len(done.prompt_ids) + len(done.ids) == 201
            assert chat(USER, ignore_eos=True, max_tokens=3).finish_reason == "length"
            assert chat(USER, ignore_eos=True, options=SamplingOptions(max_tokens=3)).finish_reason == "length"
        assert len(model.generate("Hi", ignore_eos=True).ids) == 128


def test_the_token_that_ended_has_its_log_probability(smol: Model) -> None:
    assert smol.tokenizer is not None and smol.tokenizer.eos is not None
    eos = smol.tokenizer.eos
    ends: list[tuple[int, dict[str, Any]]] = [
        (eos, {"logit_bias": {eos: 1000}, "finish": "eos"}),
        (300, {"logit_bias": {300: 1000}, "stop_ids": [300], "finish": "stop"}),
    ]
    for id, options in ends:
        finish = options.pop("finish")
        done = smol.generate("Hi", logprobs=2, **options)
        (score,) = smol.score([*done.prompt_ids, id], top=2).tokens[-1:]
        assert done.ids == done.logprobs == [] and done.finish_reason == finish
        assert done.end == score and done.to_dict()["end"] == score._asdict()
        assert done.end is not None and done.end.piece == smol.tokenizer.piece(id, special=True).decode()
        assert smol.generate("Hi", **options).end is None
        *_, last = smol.stream("Hi", logprobs=2, **options)
        assert last.end == done.end
    assert smol.generate("Hi", max_tokens=1, logprobs=2).end is None


# ---- several ------------------------------------------------------------------------------------------------------


def test_several_completions_of_a_prompt(smol: Model) -> None:
    done = smol.generate(["Hi", "Once upon"], n=3, **OPTIONS)
    apart = [smol.generate(p, **{**OPTIONS, "seed": 5 + k}) for p in ("Hi", "Once upon") for k in range(3)]
    assert all(map(same, done, apart)) and [one.seed for one in done] == [5, 6, 7] * 2
    assert all(map(same, smol.generate("Hi", n=3, **OPTIONS), apart))
    assert all(map(same, smol.generate("Hi", n=3, **{**OPTIONS, "cache": False}), apart)) is False  # by their options
    assert [a.ids for a in smol.generate("Hi", n=3, cache=False, **OPTIONS)] == [a.ids for a in apart[:3]]
    assert len({one.seed for one in smol.generate("Hi", n=3, max_tokens=1)}) == 3
    assert [one.seed for one in smol.generate("Hi", n=np.int64(1), **OPTIONS)] == [5]
    seeds = {**OPTIONS, "seed": [3, 8]}
    assert [one.seed for one in smol.generate(["Hi", "Ho"], **seeds)] == [3, 8]
    assert [one.seed for one in smol.generate(["Hi", "Ho"], n=2, **seeds)] == [3, 4, 8, 9]
    assert [one.seed for one in smol.generate("Hi", n=2, **seeds)] == [3, 8]
    for n, error in ((0, ValueError), (-1, ValueError), (1.0, TypeError), (True, TypeError), (10**9, ValueError)):
        with pytest.raises(error, match="^n="):
            smol.generate("Hi", n=n)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="^seed has 2 values: expected 1"):
        smol.generate("Hi", **seeds)
    with pytest.raises(ValueError, match="^seed has 2 values: expected 1"):
        smol.context().generate("Hi", **seeds)


def test_a_stream_of_several(smol: Model) -> None:
    stream = smol.stream(["Hi", "Once upon"], **OPTIONS)
    assert isinstance(stream, BatchStream) and stream.texts == ["", ""]
    texts = ["", ""]
    for index, piece in stream:
        texts[index] += piece.text
        assert stream.texts == texts
    whole = smol.generate(["Hi", "Once upon"], **OPTIONS)
    assert texts == [one.text for one in whole] and all(map(same, stream.result(), whole))
    with smol.stream("Hi", n=2, **OPTIONS) as stream:
        first = [next(stream), next(stream)]
    assert [index for index, _ in first] == [0, 1]
    assert [one.finish_reason for one in stream.result()] == ["cancelled"] * 2
    assert [one.ids for one in stream.result()] == [piece.ids for _, piece in first]


def test_several_conversations(smol: Model) -> None:
    other = [{"role": "system", "content": "Be brief."}, *USER]
    options = {**OPTIONS, "variables": {"x": 1}}
    done = smol.chat([USER, other], **options)
    assert all(map(same, done, [smol.chat(USER, **options), smol.chat(other, **options)]))
    assert all(map(same, smol.chat(iter([tuple(USER), np.array(other)]), **options), done))  # type: ignore[arg-type]
    assert all(map(same, smol.chat([USER, other], stream=True, **options).result(), done))
    assert [one.seed for one in smol.chat(USER, n=2, **options)] == [5, 6]
    assert [i for i, _ in smol.chat(USER, n=2, stream=True, max_tokens=0)] == [0, 1]
    with pytest.raises(TypeError, match=r"^messages\[1\]\[0\] must be a dict"):
        smol.chat([USER, ["hi"]])  # type: ignore[list-item]
    with pytest.raises(ContextFullError, match=r"^the conversation messages\[1\] is too long"):
        smol.chat([USER, [{"role": "user", "content": "word " * 9000}]])


def test_a_stream_of_several_of_which_one_fails(ids_only: Model) -> None:
    prompts = [[1] * 60, [2, 3]]
    options: dict[str, Any] = {"max_tokens": 9, "temperature": 0, "ignore_eos": True, "on_full": "error"}
    stream = ids_only.stream(prompts, **options)
    with pytest.raises(BatchError, match=r"^prompt\[0\]: .*\(1 of 2 prompts failed\)$"):
        list(stream)
    with pytest.raises(BatchError) as caught:
        stream.result()
    assert list(caught.value.errors) == [0] and caught.value.completions[0] is None
    assert caught.value.completions[1].ids == ids_only.generate([2, 3], **options).ids
    with pytest.raises(BatchError, match=r"^prompt\[0\]: .*\(2 of 4 completions failed\)$"):
        ids_only.generate(prompts, n=2, **options)
    with pytest.raises(BatchError):
        ids_only.generate(prompts[:1], n=1, **options)


def test_a_shared_prompt_that_fails(ids_only: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    real = ids_only.core.engine

    class Failing:
        max_rows, plan = real.max_rows, real.plan

        def forward(self, parts: Any, *, failed: dict[int, Exception], found: list[Any], **options: Any) -> None:
            bad = {i for i, (_, ids, _) in enumerate(parts) if ids[:2] == [1, 2]}
            parts = [(s, [] if i in bad else ids, 0 if i in bad else first) for i, (s, ids, first) in enumerate(parts)]
            real.forward(parts, failed=failed, found=found, **options)
            failed.update({i: NumericsError("NaN") for i in bad})

    monkeypatch.setattr(ids_only.core, "open", Failing)
    with pytest.raises(BatchError, match=r"^prompt\[1\]: NaN \(2 of 4 completions failed\)$") as caught:
        ids_only.generate([[4, 5], [1, 2, 3]], n=2, max_tokens=2, ignore_eos=True)
    assert [done is None for done in caught.value.completions] == [False, False, True, True]


def test_cancelling_before_a_shared_prompt(smol: Model) -> None:
    done = smol.generate(["Hi", "Ho"], n=2, cancel=lambda: True)
    assert [(one.ids, one.finish_reason) for one in done] == [([], "cancelled")] * 4


def test_none_is_the_default_of_every_argument(smol: Model, smollm2: Any) -> None:
    with Model.load(smollm2, threads=None, context=None, isa=None, kv=None, precision=None, cache_bytes=None) as model:
        assert model.info().kv == smol.info().kv and model.info().precision == smol.info().precision
    nothing: dict[str, Any] = dict.fromkeys(TEMPLATE_DEFAULTS)
    done = smol.chat(USER, max_tokens=3, seed=1, **nothing)
    assert done.prompt_ids == smol.chat_prompt(USER).ids and same(done, smol.chat(USER, max_tokens=3, seed=1))
    assert smol.chat_prompt(USER, **nothing) == smol.chat_prompt(USER)
    assert smol.generate("Hi", n=None, options=None, seed=1).options == smol.generate("Hi", seed=1).options
    assert smol.score("Hi", top=None, window=None) == smol.score("Hi")
    assert np.array_equal(smol.logits([1, 2], chunk=None), smol.logits([1, 2]))
    trace = smol.trace("Hi there", None, layers=None, heads=None, positions=None, limit=None, chunk=None)
    assert trace.kept == smol.trace("Hi there").kept
    assert trace.lens(None, None) == trace.lens() and trace.top(None, None) == trace.top()
    assert smol.tokenize("Hi", None, None) == smol.tokenize("Hi")
    context = smol.context()
    context.append("Hi", chunk=None, cancel=None)
    assert context.next(None) == context.next()


def test_closing_before_the_first_piece_computes_nothing(smol: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Scheduler, "_run", None)
    for stream in (smol.stream("Hi there", n=2), smol.stream(["Hi there"])):
        stream.close()
        assert {(done.finish_reason, done.timings.first_token > 60) for done in stream.result()} == {
            ("cancelled", False)
        }


@pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")
def test_a_stream_without_its_arguments_is_one_error() -> None:
    for kind in (Stream, BatchStream):
        with pytest.raises(TypeError, match="missing"):
            kind()  # type: ignore[call-arg]
        gc.collect()
