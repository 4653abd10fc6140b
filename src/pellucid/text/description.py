"""A ``tokenizer.json``, validated before the ``tokenizers`` package reads it.

The file is effectively an untrusted program: its components may enlarge a text without bound, search it forever, or end
the process. Here each component must be of a known kind, with known fields of the right types; the factor by which it
can enlarge a text is bounded, and so is the product of all factors.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, NamedTuple

from pellucid.errors import TokenizerError
from pellucid.text.components import (
    ADDED,
    ID,
    INSIDE,
    KINDS,
    MODELS,
    PADDING,
    TRUNCATION,
    Table,
    check_fields,
    fail,
    need,
    normalizer_growth,
    prefix_bytes,
)
from pellucid.text.pattern import Pattern
from pellucid.text.vocabulary import quoted
from pellucid.text.words import KNOWN, LINEAR

__all__ = ["Description", "Expression", "guessed_model"]

MOST_GROWTH = 256  # bytes that one byte of text may become; the published files stay below 130
_MOST_COMPONENTS, _DEEPEST = 64, 8
_MOST_ADDED = 1 << 24  # bytes that the spellings of all added tokens may become
_MOST_SPECIAL = 1024  # ids that a post-processor adds
_HOLES, _FEW = 4, 4096  # ids must be below _HOLES times the number of pieces, plus _FEW


class Expression(NamedTuple):
    """A regular expression whose time is bounded. ``growth``: of the text before it is searched. ``exact``: whether the
    normalised text is searched unchanged."""

    place: str
    pattern: Pattern
    growth: float
    exact: bool


@dataclass
class Description:
    """The contents of a tokenizer.json. Raises ``TokenizerError`` naming the component, e.g.
    ``normalizer.normalizers[3]``.

    ``table``: its JSON, in which some steps are replaced by equivalents that take linear time (``changed``). ``adapt``:
    makes changes to the table before it is checked, and says whether it made any. ``rows``: of a model's embedding:
    added tokens beyond it are left out (``changed``), if all others are in it. ``growth``: bytes that one byte of text
    may become. ``expressions``: those whose time is to be bounded for each text. ``compared``: the steps that finding
    pieces takes for each byte of text. ``bound``: larger than every id.
    """

    text: str
    rows: int | None = None
    adapt: Callable[[Table], bool] | None = None
    table: Table = field(init=False)
    changed: bool = False
    growth: float = 1.0
    compared: int = 1
    bound: int = 0
    expressions: list[Expression] = field(default_factory=list)

    def __post_init__(self) -> None:
        try:
            table = json.loads(self.text, object_pairs_hook=_table)
        except (ValueError, RecursionError) as error:
            raise TokenizerError(f"not JSON: {error}") from None
        if not isinstance(table, dict) or not isinstance(table.get("model"), dict):
            raise TokenizerError('model: missing; expected a table with "model", "decoder" and so on')
        self.table = table
        self.changed = self.adapt is not None and self.adapt(table)
        self.adapt = None  # a function of the caller's, which may not be picklable
        self._components = 0
        self._exact = True
        self._check_model(table["model"])
        self._check_added()
        self._leave_out()
        for name in ("decoder", "normalizer"):
            if table.get(name) is not None:
                self._check_step(name, table[name], name)
        self._check_added_growth()
        for name in ("pre_tokenizer", "post_processor"):
            if table.get(name) is not None:
                self._check_step(name, table[name], name)
        for name, fields in (("truncation", TRUNCATION), ("padding", PADDING)):
            if table.get(name) is not None:
                if not isinstance(table[name], dict):
                    raise fail(name, f"it is {quoted(table[name])}; expected a table")
                check_fields(table[name], fields, name)

    # ---- pieces

    def _check_model(self, model: Table) -> None:
        kind = model.get("type")
        if kind is None:  # files of early versions have no kind
            kind = model["type"] = guessed_model(model)
            self.changed = True
        if not isinstance(kind, str) or kind not in MODELS:
            raise fail("model.type", f"it is {quoted(kind)}; expected one of {', '.join(MODELS)}")
        check_fields(model, MODELS[kind], "model")
        need(model, "vocab merges" if kind == "BPE" else "vocab", "model")
        vocab = model["vocab"]
        if kind == "Unigram":
            self._check_scores(vocab, model.get("unk_id"))
            return
        ids = vocab.values()
        if not set(map(type, ids)) <= {int} or min(ids, default=0) < 0:
            name, bad = next((name, i) for name, i in vocab.items() if not ID.test(i))
            raise fail(f"model.vocab[{quoted(name)}]", f"it is {quoted(bad)}; expected {ID.expected}")
        self._check_bound(max(ids, default=-1), len(vocab), "model.vocab")
        if len(set(ids)) < len(vocab):
            seen: set[int] = set()
            twice = next(name for name, i in vocab.items() if i in seen or seen.add(i))  # type: ignore[func-returns-value]
            raise fail(f"model.vocab[{quoted(twice)}]", f"its id {vocab[twice]} is another piece's, too")
        if kind == "BPE":
            _check_merges(model["merges"], model.get("continuing_subword_prefix") or "")
        elif kind == "WordPiece":
            self.compared = 1 + model.get("max_input_chars_per_word", 100) ** 2 // 64

    def _check_bound(self, largest: int, pieces: int, place: str) -> None:
        limit = _HOLES * pieces + _FEW
        if largest >= limit:
            raise fail(place, f"id {largest} of {pieces} pieces; expected ids below {limit}")
        self.bound = max(self.bound, largest + 1)

    def _check_scores(self, vocab: list[Any], unknown: int | None) -> None:
        for i, row in enumerate(vocab):
            if not (isinstance(row, list) and len(row) == 2 and isinstance(row[0], str) and _is_score(row[1])):
                raise fail(f"model.vocab[{i}]", f"it is {quoted(row)}; expected a piece and its finite score")
        if unknown is not None and unknown >= len(vocab):
            raise fail("model.unk_id", f"it is {unknown}; the vocabulary has {len(vocab)} pieces")
        self.bound = len(vocab)
        self.compared = 4 * max((len(row[0].encode("utf-8", "replace")) for row in vocab), default=1)

    def _check_added(self) -> None:
        added = self.table.get("added_tokens") or []
        if not isinstance(added, list) or not all(isinstance(token, dict) for token in added):
            raise TokenizerError("added_tokens: expected a list of objects")
        pieces = self.bound + len(added)
        for i, token in enumerate(added):
            place = f"added_tokens[{i}]"
            check_fields(token, ADDED, place)
            need(token, "id content", place)
            self._check_bound(token["id"], pieces, f"{place}.id")

    def _leave_out(self) -> None:
        """Removes added tokens beyond the model's embedding, such as those of images in files of a text model (Gemma
        3)."""
        rows, added, vocab = self.rows, self.table.get("added_tokens") or [], self.table["model"]["vocab"]
        if rows is None or self.bound <= rows:
            return
        ids = vocab if isinstance(vocab, dict) else {}
        gone = {token["content"] for token in added if token["id"] >= rows}
        kept = [token for token in added if token["id"] < rows]
        own = [i for piece, i in ids.items() if piece not in gone or i < rows] or [len(vocab) - 1]
        bound = 1 + max(*own, *(token["id"] for token in kept), -1)
        if bound > rows:
            return
        for piece in gone:
            if ids.get(piece, -1) >= rows:
                del ids[piece]
        self.table["added_tokens"], self.bound, self.changed = kept, bound, True

    def _check_added_growth(self) -> None:
        """Bounds the size of the spellings of added tokens, which are normalised at load."""
        added = self.table.get("added_tokens") or []
        size = sum(len(token["content"]) * 4 + 16 for token in added)
        if size * (self.growth if any(token.get("normalized") for token in added) else 1) > _MOST_ADDED:
            raise fail("added_tokens", f"their normalised spellings may take more than {_MOST_ADDED} bytes")

    # ---- steps

    def _check_step(self, section: str, step: Any, place: str, depth: int = 0) -> None:
        if not isinstance(step, dict):
            raise fail(place, f"it is {quoted(step)}; expected a table")
        kinds, kind = KINDS[section], step.get("type")
        if not isinstance(kind, str) or kind not in kinds:
            known = ", ".join(kinds)
            raise fail(f"{place}.type", f"it is {quoted(kind)}; expected one of {known}")
        check_fields(step, kinds[kind], place)
        self._components += 1
        if self._components > _MOST_COMPONENTS or depth > _DEEPEST:
            raise fail(place, f"more than {_MOST_COMPONENTS} components, or nested more than {_DEEPEST} deep")
        if kind == "Sequence":
            name = INSIDE[section]
            need(step, name, place)
            if section == "pre_tokenizer":
                self._make_linear(step[name])
            for i, inner in enumerate(step[name]):
                self._check_step(section, inner, f"{place}.{name}[{i}]", depth + 1)
        elif section in ("normalizer", "pre_tokenizer"):
            try:
                self._check_growth(section, kind, step, place)
            except TokenizerError as error:
                raise error if error.message.startswith(place) else fail(place, error.message) from None
        elif kind == "TemplateProcessing":
            self._check_template(step, place)
        elif section == "post_processor":
            for name in ("sep", "cls"):
                if name in step and step[name][1] >= self.bound:
                    raise fail(f"{place}.{name}", f"id {step[name][1]} is not below {self.bound}")

    def _check_growth(self, section: str, kind: str, step: Table, place: str) -> None:
        pattern = step.get("pattern")
        if kind in ("Replace", "Split"):
            need(step, "pattern content" if kind == "Replace" else "pattern", place)
        shortest = 1
        if isinstance(pattern, dict):
            shortest = len(pattern["String"].encode("utf-8", "replace")) if "String" in pattern else 0
            if "Regex" in pattern and not (section == "pre_tokenizer" and pattern["Regex"] in KNOWN):
                shortest = self._check_regex(section, pattern["Regex"], place)
        if section == "normalizer":
            self.growth *= normalizer_growth(kind, step, shortest)
        elif kind in ("ByteLevel", "Metaspace"):
            self.growth *= 2 + prefix_bytes(kind, step)
            self._exact = False
        if self.growth > MOST_GROWTH:
            raise fail(place, f"with this step, a text may become more than {MOST_GROWTH} times as long")

    def _check_regex(self, section: str, source: str, place: str) -> int:
        pattern = Pattern(source)
        if section == "normalizer" and pattern.least == 0:
            raise TokenizerError(f"the regular expression {quoted(source)} can match an empty text: not supported")
        exact = section == "pre_tokenizer" and self._exact
        self.expressions.append(Expression(place, pattern, self.growth, exact))
        return pattern.least

    def _make_linear(self, steps: list[Any]) -> None:
        """Replaces expressions that take quadratic time by equivalents."""
        made: list[Any] = []
        for step in steps:
            pattern = step.get("pattern") if isinstance(step, dict) and step.get("type") == "Split" else None
            regex = pattern.get("Regex") if isinstance(pattern, dict) else None
            if (
                isinstance(regex, str)
                and regex in LINEAR
                and step.get("behavior") == "Isolated"
                and not step.get("invert")
            ):
                made += [
                    {**step, "pattern": {"Regex": one}, "behavior": behavior.title().replace("_", "")}
                    for one, behavior in LINEAR[regex]
                ]
            else:
                made.append(step)
        self.changed = self.changed or made != steps
        steps[:] = made

    def _check_template(self, step: Table, place: str) -> None:
        need(step, "single pair special_tokens", place)
        sizes = {}
        for name, token in step["special_tokens"].items():
            where = f"{place}.special_tokens[{quoted(name)}]"
            ids, tokens = (token.get(key) if isinstance(token, dict) else None for key in ("ids", "tokens"))
            if not (isinstance(ids, list) and isinstance(tokens, list) and len(ids) == len(tokens) > 0):
                raise fail(where, 'expected a table with "ids" and "tokens", lists of one length')
            for i in ids:
                if not ID.test(i) or i >= self.bound:
                    raise fail(f"{where}.ids", f"{quoted(i)} is not an id below {self.bound}")
            sizes[name] = len(ids)
        for form in ("single", "pair"):
            found, added = [], 0
            for i, part in enumerate(step[form]):
                kind, value = next(iter(part.items())) if isinstance(part, dict) and len(part) == 1 else ("", None)
                name = value.get("id") if isinstance(value, dict) else None
                if kind == "Sequence" and name in ("A", "B"):
                    found.append(name)
                elif kind == "SpecialToken" and isinstance(name, str) and name in sizes:
                    added += sizes[name]
                else:
                    raise fail(f"{place}.{form}[{i}]", f"it is {quoted(part)}; expected a sequence or a known token")
            if form == "single" and found != ["A"]:  # pairs of texts are never encoded
                raise fail(f"{place}.{form}", "expected only the sequence A, once")
            if added > _MOST_SPECIAL:
                raise fail(f"{place}.{form}", f"adds {added} tokens; expected at most {_MOST_SPECIAL}")


def _table(pairs: list[tuple[str, Any]]) -> Table:
    made = dict(pairs)
    if len(made) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise TokenizerError(f"the key {quoted(twice)} is given twice in one table")
    return made


def guessed_model(model: Table) -> str:
    """The kind of model in files of early versions, which do not state it."""
    if isinstance(model.get("vocab"), list):
        return "Unigram"
    if "merges" in model:
        return "BPE"
    return "WordPiece" if "continuing_subword_prefix" in model else "WordLevel"


def _is_score(value: Any) -> bool:
    return type(value) in (int, float) and -1e300 < value < 1e300 and math.isfinite(value)


def _check_merges(merges: list[Any], prefix: str) -> None:
    kinds = set(map(type, merges))
    if kinds == {list} and set(map(len, merges)) == {2} and set(map(type, chain.from_iterable(merges))) == {str}:
        rights = [right for _, right in merges] if prefix else []
    elif kinds <= {str}:
        rights = [merge.rpartition(" ")[2] for merge in merges] if prefix else []
    else:
        bad = next(i for i, m in enumerate(merges) if not (_is_pair(m) or (isinstance(m, str) and kinds == {str})))
        raise fail(f"model.merges[{bad}]", f"it is {quoted(merges[bad])}; expected two pieces, as in all others")
    for i, right in enumerate(rights):
        if not right.startswith(prefix):
            raise fail(f"model.merges[{i}]", f"{quoted(right)} does not begin with {quoted(prefix)}")


def _is_pair(merge: Any) -> bool:
    return isinstance(merge, list) and len(merge) == 2 and all(isinstance(piece, str) for piece in merge)
