"""Embeddings of texts, and the relevance of documents to a query, from a model's hidden states."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pellucid import _engine, arguments, checks, observers
from pellucid.core import Core
from pellucid.errors import OutOfMemoryError, TokenizerError, UnsupportedModelError, WrongType, WrongValue
from pellucid.pooling import POOLINGS, Embedder, normalized
from pellucid.schedule.turns import Turns
from pellucid.text.base import to_utf8

__all__ = ["Ranked", "embed", "rerank"]

Floats = npt.NDArray[np.float32]
Positions = npt.NDArray[np.int32] | None

MOST_ROWS = 512  # of a pass that holds several texts


class Ranked(NamedTuple):
    """A document's index in the list that was given, and its relevance to the query."""

    index: int  # type: ignore[assignment]  # takes the place of tuple's method
    score: float


# ---- embeddings -----------------------------------------------------------------------------------------------------


def embed(
    core: Core,
    texts: Any,
    pooling: Any,
    normalize: Any,
    dimensions: Any,
    instruction: Any,
    *,
    cancel: Any = None,
    counted: Callable[[int], None] | None = None,
) -> Floats:
    """``Model.embed``. cancel: as in `pooled`. counted: called with the number of tokens before they are computed."""
    engine, embedder = core.open(), core.embedder
    if embedder.answers is not None:
        embedder = Embedder()  # its prompts and messages are of two texts
    kind = embedder.pooling if pooling is None else checks.choice("pooling", pooling, POOLINGS)
    if kind is None:
        expected = " or ".join(repr(name) for name in POOLINGS)
        raise WrongValue("pooling", f": the model's files do not say how it makes an embedding; expected {expected}")
    width = embedder.dense[-1].weight.shape[0] if embedder.dense else engine.dim
    if dimensions is None:
        size = min(embedder.dimensions or width, width)
    else:
        size = checks.integer("dimensions", dimensions, 1, width)
    scaled = normalize is None or checks.flag("normalize", normalize)
    several, given = arguments.prompts(texts, "texts")
    before = _prompt(embedder, instruction, any(isinstance(arguments.plain(text), str) for text in given))
    many = []
    for i, text in enumerate(given):
        text, name = arguments.plain(text), f"texts[{i}]" if several else "texts"
        if isinstance(text, str):
            text = before + text if embedder.messages is None else _message(core, text, before, name)
        many.append(core.prompt(text, name))
    if counted is not None:
        counted(sum(map(len, many)))
    out = np.empty((len(many), size), np.float32)
    with observers.during(core, "embeddings", sum(map(len, many))):
        for i, state in enumerate(pooled(core, many, kind, cancel=cancel)):
            for layer in embedder.dense:
                state = layer(state)
            out[i] = normalized(state[:size]) if scaled else state[:size]
    return out


def _prompt(embedder: Embedder, instruction: Any, texts: bool) -> str:
    """What is put before each text. texts: whether there are any; ids are used as they are."""
    if instruction is None:
        return embedder.prompts.get(embedder.prompt or "", "")
    instruction = checks.string("instruction", instruction, "the name of one of the model's prompts, or text")
    with arguments.named("instruction"):
        to_utf8(instruction)
    if not texts:
        raise WrongType("instruction", " is put before texts; token ids are used as they are")
    return embedder.prompts.get(instruction, instruction)


def _message(core: Core, text: str, before: str, name: str) -> list[int]:
    """The ids of a text as a message of the user, after one of the system with what is put before it."""
    messages = core.embedder.messages
    assert messages is not None
    with arguments.named(name):
        to_utf8(text)
    return _laid_out(core, messages.of(text, before))


def _laid_out(core: Core, conversation: list[dict[str, Any]]) -> list[int]:
    """The ids of messages by the chat template."""
    messages = core.embedder.messages
    assert messages is not None
    made = core.chat_prompt(conversation, add_generation_prompt=messages.asks)
    bos = core.need_tokenizer().bos
    if bos is not None and made.ids[:1] == [bos] and not made.text.startswith(core.spell(bos)):
        return made.ids[1:]  # it is there only if the template writes it
    return made.ids


# ---- hidden states --------------------------------------------------------------------------------------------------


class _Text:
    """A text on its way through the passes."""

    def __init__(self, ids: Sequence[int], pooling: str, positions: Positions = None) -> None:
        self.ids, self.pooling, self.positions = list(ids), pooling, positions
        self.sequence: _engine.Sequence | None = None
        self.done = 0
        self.result: npt.NDArray[Any] | None = None  # float64 of a mean

    def part(self, turns: Turns, room: int) -> tuple[_engine.Sequence, list[int], int]:
        """The next rows: (sequence, ids, first wanted row)."""
        if self.sequence is None:
            self.sequence = turns.sequence()
        ids = self.ids[self.done : self.done + room]
        whole = self.done + len(ids) == len(self.ids)
        if self.pooling == "first":
            return self.sequence, ids, len(ids) if self.done else 0
        return self.sequence, ids, 0 if self.pooling == "mean" else len(ids) - 1 if whole else len(ids)

    def part_positions(self, n: int) -> Positions:
        """Those of the next n rows."""
        return None if self.positions is None else self.positions[self.done : self.done + n]

    def take(self, rows: Floats, n: int) -> None:
        """The wanted hidden states of a pass that had n rows of the text."""
        self.done += n
        if self.pooling == "mean":
            total = np.zeros(rows.shape[1], np.float64) if self.result is None else self.result
            for row in rows:  # one after the other: the sum does not depend on passes
                total += row
            self.result = total
        elif len(rows):
            self.result = rows[0].copy()

    def state(self) -> Floats:
        assert self.result is not None
        found = self.result / len(self.ids) if self.pooling == "mean" else self.result
        out: Floats = found.astype(np.float32)
        return out


def pooled(
    core: Core,
    many: Sequence[Sequence[int]],
    pooling: str,
    *,
    positions: Sequence[Positions] | None = None,
    cancel: Any = None,
) -> Iterator[Floats]:
    """The pooled hidden state of each text, in order. Texts share passes; each gives the same result as alone.
    positions: those of each text's tokens, if they are not 0, 1, ... cancel: an event or a callable, as in
    `Model.generate`; once it is set, `_engine.Cancelled` is raised."""
    whole = not all(group.causal for group in core.open().plan.caches)  # each text must then be in one pass
    texts = [_Text(ids, pooling, own) for ids, own in zip(many, positions or [None] * len(many), strict=True)]
    asked = getattr(cancel, "is_set", cancel)
    with Turns(core, "embed", [len(ids) for ids in many], asked) as turns:
        while texts:
            batch: list[_Text] = []
            most = min(MOST_ROWS, turns.max_rows)
            parts, room = [], turns.rows(most, texts[0].done)
            for text in texts[: turns.together]:
                if whole and batch and len(text.ids) > room:
                    break
                parts.append(text.part(turns, max(room, len(text.ids)) if whole else room))
                batch.append(text)
                room -= len(parts[-1][1])
                if room <= 0:
                    break
            out = np.empty((sum(len(ids) - wanted for _, ids, wanted in parts), turns.dim), np.float32)
            own = [text.part_positions(len(ids)) for text, (_, ids, _) in zip(batch, parts, strict=True)]
            if asked is not None and asked():  # short passes do not check it
                raise _engine.Cancelled("the call was cancelled")
            try:
                turns.forward(parts, hidden=out, positions=own if positions else None)
            except OutOfMemoryError:
                if turns.fewer(len(parts)):
                    continue
                raise
            at = 0
            for text, (_, ids, wanted) in zip(batch, parts, strict=True):
                text.take(out[at : at + len(ids) - wanted], len(ids))
                at += len(ids) - wanted
            ended = [text for text in batch if text.done == len(text.ids)]  # all but perhaps the last
            del texts[: len(ended)]
            for text, (sequence, _, _) in zip(ended, parts, strict=False):
                turns.drop(sequence)
                yield text.state()


# ---- relevance ------------------------------------------------------------------------------------------------------

# The prompt of Qwen3-Reranker (https://huggingface.co/Qwen/Qwen3-Reranker-0.6B); its answer is "yes" or "no".
_TEMPLATE = (
    "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the Instruct"
    ' provided. Note that the answer can only be "yes" or "no".<|im_end|>\n<|im_start|>user\n',
    "<Instruct>: {instruction}\n<Query>: {query}\n<Document>: {document}",
    "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n",
)
_INSTRUCTION = "Given a web search query, retrieve relevant passages that answer the query"
_ANSWERS = ("yes", "no")


def rerank(
    core: Core,
    query: Any,
    documents: Any,
    instruction: Any,
    *,
    cancel: Any = None,
    counted: Callable[[int], None] | None = None,
) -> list[Ranked]:
    """``Model.rerank``. cancel, counted: as in `embed`."""
    engine = core.open()
    query = checks.string("query", arguments.plain(query), "text")
    several, given = arguments.prompts(documents, "documents")
    if not several:
        raise WrongType("documents", f"={checks.shown(documents)}: expected several texts")
    texts = [checks.string("documents", arguments.plain(text), "text", at=f"[{i}]") for i, text in enumerate(given)]
    if instruction is not None:
        instruction = checks.string("instruction", instruction, "text")
    for name, text in (("query", query), ("instruction", instruction or ""), *_numbered("documents", texts)):
        with arguments.named(name):
            to_utf8(text)
    answers = core.config.architecture == "qwen3"
    if core.embedder.scorer and not answers:
        if instruction is not None:
            raise WrongValue("instruction", ": this model has a classifier of two texts, which takes no instruction")
        many, positions = _pairs(core, query, texts)
    elif answers and core.embedder.answers is not None and engine.plan.ops[-1].n_seg:
        many, positions = _conversations(core, query, texts, _prompt(core.embedder, instruction, True)), None
    elif answers and (core.embedder.scorer or engine.plan.ops[-1].n_seg):
        many, positions = _questions(core, query, texts, instruction or _INSTRUCTION), None
    else:
        raise UnsupportedModelError(
            feature=f"reranking with {core.config.architecture}",
            supported="Qwen3-Reranker; BERT, XLM-R and ModernBERT with a classifier",
        )
    if counted is not None:
        counted(sum(map(len, many)))
    if positions is not None:
        scores = _classified(core, many, positions, cancel)
    else:
        scores = _answers(core, engine, many, cancel)
    order = sorted(range(len(scores)), key=lambda i: (-scores[i], i))
    return [Ranked(i, scores[i]) for i in order]


def _numbered(name: str, texts: Sequence[str]) -> Iterator[tuple[str, str]]:
    return ((f"{name}[{i}]", text) for i, text in enumerate(texts))


def _pairs(core: Core, query: str, texts: Sequence[str]) -> tuple[list[list[int]], list[Positions]]:
    """The ids of query and text together, for the model's classifier, and the tokens' positions, which encode their
    types, too."""
    tokenizer, second = core.need_tokenizer(), core.config.second_type if core.embedder.typed else 0
    many: list[list[int]] = []
    positions: list[Positions] = []
    for i, text in enumerate(texts):
        ids, types = tokenizer.encode_pair(query, text)
        if any(types) and core.embedder.typed and not second and core.config.architecture == "bert":
            raise TokenizerError("the tokenizer gives tokens of two types, but the model has only one")
        many.append(core.prompt(ids, f"documents[{i}]"))
        positions.append(np.arange(len(ids), dtype=np.int32) + np.int32(second) * np.array(types, np.int32))
    return many, positions


def _classified(core: Core, many: Sequence[list[int]], positions: Sequence[Positions], cancel: Any) -> list[float]:
    """The scores that the model's classifier gives."""
    scores = []
    for state in pooled(core, many, core.config.scorer_pooling, positions=positions, cancel=cancel):
        for layer in core.embedder.scorer:
            state = layer(state)
        scores.append(_sigmoid(float(state[0])) if core.embedder.sigmoid else float(state[0]))
    return scores


def _questions(core: Core, query: str, texts: Sequence[str], instruction: str) -> list[list[int]]:
    """The ids of the template filled in with each text."""
    tokenizer = core.need_tokenizer()
    before, middle, after = _TEMPLATE
    head, tail = (tokenizer.encode(part, add_special=False, parse_special=True) for part in (before, after))
    many = []
    for i, text in enumerate(texts):
        content = middle.format(instruction=instruction, query=query, document=text)
        ids = [*head, *tokenizer.encode(content, add_special=False), *tail]
        many.append(core.prompt(ids, f"documents[{i}]"))
    return many


def _conversations(core: Core, query: str, texts: Sequence[str], before: str) -> list[list[int]]:
    """The model's own chat template with each text."""
    messages = core.embedder.messages
    assert messages is not None
    made = ((i, _laid_out(core, messages.of_pair(query, text, before))) for i, text in enumerate(texts))
    return [core.prompt(ids, f"documents[{i}]") for i, ids in made]


def _answers(core: Core, engine: _engine.Engine, many: Sequence[list[int]], cancel: Any) -> list[float]:
    """The probability of "yes" rather than "no" as the next token after the template; its logit where files say so."""
    yes, no = _rows_of_answers(core, engine)
    plain = core.embedder.answers is not None and not core.embedder.sigmoid
    scores = []
    for state in pooled(core, many, "last", cancel=cancel):
        margin = float(np.einsum("i,i", yes - no, state.astype(np.float64), optimize=False))
        scores.append(margin if plain else _sigmoid(margin))
    return scores


def _rows_of_answers(core: Core, engine: _engine.Engine) -> list[npt.NDArray[np.float64]]:
    """The head's rows for "yes" and "no", which a GGUF file may store separately."""
    if core.embedder.scorer:
        return [row.astype(np.float64) for row in core.embedder.scorer[0].weight]
    matrix = engine.plan.segments[engine.plan.ops[-1].seg].matrix
    if core.embedder.answers is not None:
        found = [_row(engine, matrix, token) for token in core.embedder.answers if token is not None]
        return found if len(found) == 2 else [*found, np.zeros_like(found[0])]
    tokens = [core.need_tokenizer().encode(answer, add_special=False) for answer in _ANSWERS]
    if any(len(ids) != 1 for ids in tokens):
        raise TokenizerError('the vocabulary has no tokens "yes" and "no", with which a reranker answers')
    return [_row(engine, matrix, ids[0]) for ids in tokens]


def _row(engine: _engine.Engine, matrix: int, token: int) -> npt.NDArray[np.float64]:
    if token >= engine.plan.matrices[matrix].rows:
        raise TokenizerError(f"a reranker's answer is token {token}, which its head lacks")
    row: npt.NDArray[np.float64] = engine.matrix(matrix, rows=(token, token + 1))[0].astype(np.float64)
    return row


def _sigmoid(x: float) -> float:
    return 1.0 / (1.0 + math.exp(-x)) if x >= 0 else math.exp(x) / (1.0 + math.exp(x))
