"""Typical uses, as a user's `mypy --strict` sees them. A line that mypy must refuse ends in `# error`.

The test compares these with what mypy finds; nothing here runs.
"""

import asyncio
import threading
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, assert_type

import numpy as np
import numpy.typing as npt

from pellucid import (
    AsyncBatchStream,
    AsyncStream,
    BatchStream,
    Completion,
    Context,
    Edit,
    GenerateOptions,
    Model,
    NextToken,
    Piece,
    SamplingOptions,
    Stream,
    TokenLogprob,
)
from pellucid.embedding import Ranked
from pellucid.look.score import Score

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from pellucid import ChatOptions

model = Model.load("smollm2-135m", kv="int8", precision="high", threads=np.int64(2))
Model.load("smollm2-135m", kv=None, precision=None)
Model.load("smollm2-135m", kv="f8")  # error
Model.load("smollm2-135m", precision="low")  # error

texts: list[str] = ["a", "b"]
array: npt.NDArray[np.int64] = np.array([1, 2])

# ---- one prompt -----------------------------------------------------------------------------------------------------

assert_type(model.generate("a"), Completion)
assert_type(model.generate([1, 2, 3]), Completion)
assert_type(model.generate((1, 2, 3)), Completion)
assert_type(model.generate(range(3)), Completion)
assert_type(model.generate(array), Completion)
assert_type(model.generate([np.int32(1), np.int32(2)]), Completion)
assert_type(model.generate(model.tokenize("a")), Completion)
assert_type(model.generate("a", temperature=0, max_tokens=None, top_k=np.int64(5), min_p=np.float32(0.1)), Completion)
assert_type(model.generate("a", stop="x", stop_ids={5}, logit_bias={5: -1.0}, samplers=["top_k", "xtc"]), Completion)
assert_type(model.generate("a", stop=("x", "y"), cancel=threading.Event(), seed=None, mirostat=2), Completion)
assert_type(model.generate("a", cancel=lambda: False, on_full="error", echo=True), Completion)
model.generate(3)  # error
model.generate(None)  # error
model.generate([1.5])  # error
model.generate("a", temprature=1)  # error
model.generate("a", temperature="hot")  # error
model.generate("a", on_full="stopp")  # error
model.generate("a", mirostat=1)  # error
model.generate("a", samplers=["topk"])  # error
model.generate("a", max_tokens=1.5)  # error
model.generate("a", stop=5)  # error
model.generate("a", cancel=5)  # error
model.generate("a", options={"top_k": 5})  # error

# ---- several prompts ------------------------------------------------------------------------------------------------

assert_type(model.generate(texts), list[Completion])
assert_type(model.generate(["a", "b"]), list[Completion])
assert_type(model.generate(("a", "b")), list[Completion])
assert_type(model.generate(iter(texts)), list[Completion])
assert_type(model.generate(text.upper() for text in texts), list[Completion])
assert_type(model.generate([[1, 2], [3]]), list[Completion])
assert_type(model.generate([array, array], seed=[1, 2]), list[Completion])
assert_type(model.generate([(1, 2), (3,)], seed=np.array([1, 2])), list[Completion])
assert_type(model.generate("a", n=3), list[Completion])
assert_type(model.generate(texts, n=np.int64(3), seed=5), list[Completion])
model.generate("a", n="3")  # error

# ---- what comes back ------------------------------------------------------------------------------------------------

done = model.generate("a", logprobs=2)
assert_type(done.text, str)
assert_type(done.ids, list[int])
assert_type(done.seed, int)
assert_type(done.options, SamplingOptions)
assert_type(done.options.temperature, float)
assert_type(done.options.stop, tuple[str, ...])
assert_type(done.end, TokenLogprob | None)
assert_type(done.logprobs[0].top, list[tuple[int, str, float]])
if done.finish_reason == "stopp":  # error
    raise SystemExit

# ---- streams --------------------------------------------------------------------------------------------------------

assert_type(model.stream("a", temperature=0), Stream)
assert_type(model.stream(texts), BatchStream)
assert_type(model.stream("a", n=2), BatchStream)
assert_type(list(model.stream("a")), list[Piece])
assert_type(list(model.stream(texts)), list[tuple[int, Piece]])
model.stream("a", temprature=0)  # error
with model.stream("a") as stream:
    for piece in stream:
        assert_type(piece, Piece)
    assert_type(stream.text, str)
    assert_type(stream.result(), Completion)
    stream.close()
for index, piece in model.stream(texts):
    assert_type(index, int)
    assert_type(piece.text, str)
assert_type(model.stream(texts).result(), list[Completion])
assert_type(model.stream(texts).texts, list[str])


def pieces(text: str) -> Iterator[Piece]:
    return model.stream(text)


# ---- conversations --------------------------------------------------------------------------------------------------

messages = [{"role": "user", "content": "Hi"}]
assert_type(model.chat(messages), Completion)
assert_type(model.chat(({"role": "user", "content": "Hi"},), max_tokens=5), Completion)
assert_type(model.chat(messages, stream=True, template="x", variables={"think": False}), Stream)
assert_type(model.chat(messages, n=2), list[Completion])
assert_type(model.chat(messages, n=2, stream=True), BatchStream)
assert_type(model.chat([messages, messages], tools=[{"name": "f"}]), list[Completion])
assert_type(model.chat([messages, messages], stream=True), BatchStream)
assert_type(model.chat(messages, on_full="trim").dropped, int)
model.generate("a", on_full="trim")  # error
model.chat(messages, on_full="cut")  # error
model.chat("Hi")  # error
model.chat(messages, tols=[])  # error
model.chat_prompt(messages, template="x").ids.append(1)


def shown(streams: bool) -> None:
    assert_type(model.chat(messages, stream=streams), Completion | Stream)
    assert_type(model.chat(messages, n=2, stream=streams), list[Completion] | BatchStream)
    assert_type(model.chat([messages, messages], stream=streams), list[Completion] | BatchStream)
    assert_type(context.chat(messages, stream=streams), Completion | Stream)


# ---- any number of items --------------------------------------------------------------------------------------------

assert_type(model.generate(["a", [1, 2], array]), list[Completion])
assert_type(model.map(["a", [1, 2], messages], max_tokens=3, seeds=[1]), Iterator[Completion])
assert_type(model.map(texts, order="done", at_once=3), Iterator[tuple[int, Completion]])
assert_type(model.map(texts, on_error="return"), Iterator[Completion | Exception])
assert_type(model.map(texts, on_error="return", order="done"), Iterator[tuple[int, Completion | Exception]])
assert_type(model.score_map(["a", [1, 2]], top=3), Iterator[Score])
assert_type(model.score_map(texts, order="done"), Iterator[tuple[int, Score]])
model.map(texts, order="any")  # error
model.map(texts, temprature=1)  # error
model.score_map(texts, tpo=1)  # error

# ---- scores, traces, edits ------------------------------------------------------------------------------------------

assert_type(model.score("a", top=3), Score)
assert_type(model.score(array), Score)
assert_type(model.score(texts, window=np.int64(64)), list[Score])
assert_type(model.logits([1, 2]), npt.NDArray[np.float32])
assert_type(model.logits([[1, 2], [3]]), list[npt.NDArray[np.float32]])
model.score("a", tpo=3)  # error
model.trace(done, ["hidden", "q"], layers=np.int64(1), heads=(0, 1), positions=array)
model.trace("a", "logits", chunk=None, limit=None)
model.trace("a", "logit")  # error
with model.edit() as edit:
    edit.skip(1, "mlp").scale_head(np.int64(0), 0, np.float32(0.5))
    edit.skip(1, "ffn")  # error
    assert_type(edit, Edit)
    assert_type(edit.generate("a"), Completion)
    assert_type(edit.stream("a"), Stream)
    assert_type(edit.chat(messages, stream=True), Stream)
    edit.generate("a", temprature=1)  # error

# ---- contexts -------------------------------------------------------------------------------------------------------

context = model.context()
assert_type(context, Context)
assert_type(context.generate("a", temperature=0), Completion)
assert_type(context.generate(), Completion)
assert_type(context.stream((1, 2), seed=3), Stream)
assert_type(context.chat(messages), Completion)
assert_type(context.chat(messages, stream=True, max_tokens=9), Stream)
context.append(array, chunk=np.int64(5), cancel=threading.Event())
assert_type(context.append("a"), int)
context.rewind(np.int64(0))
assert_type(context.next(np.int64(3)), list[NextToken])
assert_type(context.logits(), npt.NDArray[np.float32])
assert_type(context.score(texts), list[Score])
assert_type(context.score([[1], [2, 3]], top=2), list[Score])
with model.context() as inner:
    assert_type(inner, Context)
context.next("3")  # error
context.score(5)  # error
context.generate("a", temprature=1)  # error
context.generate("a", on_full=True)  # error
context.stream(texts)  # error

# ---- asyncio --------------------------------------------------------------------------------------------------------


async def main() -> None:
    assert_type(await model.agenerate("a", temperature=0), Completion)
    assert_type(await model.agenerate(texts), list[Completion])
    assert_type(await model.agenerate("a", n=2), list[Completion])
    assert_type(await model.achat(messages, on_full="trim"), Completion)
    assert_type(await model.achat([messages, messages]), list[Completion])
    assert_type(await asyncio.wait_for(model.achat(messages), 1), Completion)
    assert_type(await asyncio.gather(model.agenerate("a"), context.agenerate("b")), tuple[Completion, Completion])
    assert_type(model.achat(messages, stream=True), AsyncStream)
    assert_type(await model.achat(messages, stream=True), AsyncStream)
    assert_type(model.astream(texts), AsyncBatchStream)
    async for piece in model.astream("a"):
        assert_type(piece, Piece)
    async for index, _ in model.astream(texts):
        assert_type(index, int)
    async with context.astream("a") as stream:
        assert_type(stream, AsyncStream)
        assert_type(await stream.result(), Completion)
        assert_type(stream.text, str)
    assert_type(await model.aembed(["a"]), npt.NDArray[np.float32])
    assert_type(await model.arerank("a", ["b"]), list[Ranked])
    async for each in model.amap(texts, order="done"):
        assert_type(each, tuple[int, Completion])
    async for score in model.ascore_map(texts):
        assert_type(score, Score)
    model.amap(texts, temprature=1)  # error
    assert_type(await context.agenerate(), Completion)
    assert_type(await context.achat(messages), Completion)
    assert_type(context.achat(messages, stream=True), AsyncStream)
    assert_type(await context.aappend("a", cancel=lambda: False), int)
    await model.agenerate("a", temprature=1)  # error
    model.astream("a", temprature=1)  # error
    await model.achat(messages, on_full="cut")  # error
    await context.agenerate("a", on_full="trim")  # error


# ---- options --------------------------------------------------------------------------------------------------------

options = SamplingOptions(temperature=0.5, stop="x", seed=np.uint64(3))
assert_type(model.generate("a", options=options, top_k=5), Completion)
assert_type(model.chat(messages, options=options), Completion)
assert_type(options.replace(top_k=3), SamplingOptions)
SamplingOptions(temprature=0.5)  # error
SamplingOptions(cancel=asyncio.Event())


def passed_on(prompt: str, **options: "Unpack[GenerateOptions]") -> str:
    return model.generate(prompt, **options).text


def passed_on_to_chat(messages: Sequence[dict[str, Any]], **options: "Unpack[ChatOptions]") -> str:
    return model.chat(messages, **options).text


passed_on("a", temperature=0.3)
passed_on("a", temprature=0.3)  # error
