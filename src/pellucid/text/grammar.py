"""Grammars over a vocabulary: JSON schemas, regular expressions, choices, Lark and GBNF, compiled by llguidance.

    grammars = Grammars(tokenizer, size)
    matcher = grammars.compile(Structure("schema", '{"type": "object"}')).matcher()
    matcher.forced(); matcher.mask(words); matcher.advance(id); matcher.accepting; matcher.complete

llguidance does not fetch what a schema refers to. What makes it crash or compute for long is kept from it: see
`LIMITS`, `_compiled` and schema.py.
"""

from __future__ import annotations

import json
import os
import threading
import weakref
from collections import OrderedDict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import GrammarError, PellucidError, TokenizerError, out_of_memory
from ..native import native
from ..structure import Structure
from . import gbnf, schema
from .special import looks_like_control

if TYPE_CHECKING:
    import numpy.typing as npt

    from . import TextTokenizer

    Words = npt.NDArray[np.uint32]

__all__ = ["Grammar", "Grammars", "Matcher", "NoGrammarsError", "grammars_of"]

KEPT = 64  # compiled grammars of a vocabulary
KEPT_TEXT = 1 << 18  # characters of these in all: those that mean harm take 200 times as many bytes
SPECIAL = b"\xff"  # begins a token that no text spells, as llguidance has it
REPLACEMENT = "\ufffd".encode()
STACK = 256 << 20  # bytes of address space. 64 KB of grammar can be nested some 30,000 deep; 8 MB hold 3,000 to 7,000

# Tokens of these letters alone need no look at each of them where any text of them may follow, as in [a-z ]{1000}: a
# mask of SmolLM2's 49,152 tokens takes 25 us, in place of 300. (llguidance has such classes for JSON.)
LETTERS = (r"[a-z ]{1,20}", r"[A-Za-z ]{1,20}", r"[A-Za-z0-9 ]{1,20}")

# Ours, before what a client's schema says of itself in x-guidance. Without white space a text cannot be endless.
OPTIONS = {"item_separator": ",", "key_separator": ":", "whitespace_flexible": False, "whitespace_pattern": None}
# Of a step: with 10,000 items about 0.5 s at worst. Of a grammar: 20,000 symbols, 8 for each property of an object.
LIMITS = {
    "step_lexer_fuel": 50_000,
    "step_max_items": 10_000,
    "max_lexer_states": 50_000,
    "max_grammar_size": 20_000,
    "verbose_errors": False,
}


class NoGrammarsError(PellucidError):
    """llguidance is not installed."""


def _package() -> Any:
    try:
        import llguidance
    except ModuleNotFoundError:
        raise NoGrammarsError("schemas and grammars need llguidance: pip install 'pellucid[grammar]'") from None
    return llguidance


class Grammars:
    """The grammars of a vocabulary: the last ones stay compiled, up to `KEPT`, and `KEPT_TEXT`. Safe to share between
    threads.

    size: number of tokens of the model, which may be more than the vocabulary has.
    """

    def __init__(self, tokenizer: TextTokenizer, size: int) -> None:
        self._ll = _package()
        self.tokenizer = tokenizer
        self.size = size
        self.words = (size + 31) // 32  # of a mask
        self.ends = sorted(id for id in tokenizer.eog if id < size)
        self.all = np.full(self.words, 0xFFFFFFFF, np.uint32)  # bits of the model's tokens
        if size & 31:
            self.all[-1] = (1 << (size & 31)) - 1
        self.texts = self.all.copy()  # and of those that do not end the text
        for id in self.ends:
            self.texts[id >> 5] &= ~np.uint32(1 << (id & 31))
        self.spelling = _Spelling(self)
        ends = self.ends
        if not ends:  # llguidance needs one; no mask of ours has it
            self.spelling.tokens.append(SPECIAL + b"<end>")
            ends = [size]
        self.spelling.eos_token_id = ends[0]
        self.padded = (len(self.spelling.tokens) + 31) // 32 > self.words  # llguidance's masks have a word more
        classes = [*LETTERS, *self._ll.LLTokenizer.general_slices()]
        with native, out_of_memory("for a grammar's vocabulary"):
            self.vocabulary = self._ll.LLTokenizer(self.spelling, eos_token=ends, slices=classes)
        self._known: OrderedDict[Structure, Grammar] = OrderedDict()

    def compile(self, structure: Structure) -> Grammar:
        """Raises GrammarError: a structure is wrong, cannot be kept, or is too complex."""
        known = self._known
        with _locks.table:
            found = known.get(structure)
            if found is not None:
                known.move_to_end(structure)
                return found
        try:
            with native:
                made = _compiled(lambda: Grammar(self, structure))
        except RecursionError:
            raise GrammarError("nested too deeply", place=structure.kind) from None
        with _locks.table:
            known[structure] = made
            size = sum(len(one.text) + len(one.calls) for one in known)
            while len(known) > KEPT or (size > KEPT_TEXT and len(known) > 1):
                gone, _ = known.popitem(last=False)
                size -= len(gone.text) + len(gone.calls)
        return made

    def forget(self) -> None:
        """No grammar stays compiled that nothing uses. Takes no lock: a signal's handler may close a model."""
        self._known = OrderedDict()

    def source(self, structure: Structure) -> str:
        """A structure as llguidance reads it: a JSON list of grammars."""
        content = self._content(structure)
        if not structure.calls:
            return json.dumps({"grammars": [content]})
        return json.dumps({"grammars": [{"lark_grammar": structure.calls}, {**content, "name": "content"}]})

    def _content(self, structure: Structure) -> dict[str, Any]:
        kind, text = structure.kind, structure.text
        if kind == "schema":
            root = schema.checked(text, structure.strict)
            # Of the options in the schema itself none stays.
            root["x-guidance"] = {**OPTIONS, "lenient": not structure.strict, "coerce_one_of": not structure.strict}
            return {"json_schema": root}
        if kind == "regex":
            made: dict[str, Any] = json.loads(self._ll.LLMatcher.grammar_from_regex(text))
            return dict(made["grammars"][0])
        if kind == "choice":
            texts = " | ".join(json.dumps(one, ensure_ascii=False) for one in json.loads(text))
            return {"lark_grammar": f"start: TEXT\nTEXT: {texts}\n"}
        return {"lark_grammar": self._lark(text)}

    @staticmethod
    def _lark(text: str) -> str:
        from llguidance.gbnf_to_lark import any_to_lark, gbnf_to_lark

        try:
            lark: str = gbnf_to_lark(gbnf.spelled(text)) if gbnf.is_gbnf(text) else any_to_lark(text)
        except Exception as error:  # RecursionError, and whatever the converter stumbles over
            raise GrammarError(f"neither Lark's nor GBNF's syntax: {error}", place="grammar") from None
        return schema.checked_lark(lark)


def grammars_of(tokenizer: TextTokenizer, size: int) -> Grammars:
    """Those of a tokenizer, for a model of so many tokens; built at the first use, which may be that of two threads."""
    known: dict[int, Grammars] = vars(tokenizer).setdefault("_grammars", {})  # which ends with the tokenizer
    made = known.get(size)
    return known.setdefault(size, Grammars(tokenizer, size)) if made is None else made


def forget(tokenizer: TextTokenizer) -> None:
    """Its grammars end once nothing uses them, without a search for cycles."""
    for grammars in list(vars(tokenizer).pop("_grammars", {}).values()):
        grammars.forget()


class _Spelling:
    """A tokenizer as llguidance asks for it: what each token spells, and the tokens of a text. llguidance keeps it, and
    Python does not look for cycles there: so it keeps neither the tokenizer nor the grammars."""

    is_tokenizer_wrapper = True
    bos_token_id = None
    special_token_ids: tuple[int, ...] = ()
    eos_token_id: int

    def __init__(self, grammars: Grammars) -> None:
        self._grammars = weakref.ref(grammars)  # alive: its grammars and their matchers refer to it
        self._raised = threading.local()
        self.special: dict[bytes, int] = {}
        tokenizer, size = grammars.tokenizer, grammars.size
        self.tokens = [self._token(tokenizer, id) for id in range(min(tokenizer.vocab_size, size))]
        self.tokens += [b""] * (size - len(self.tokens))

    def _token(self, tokenizer: TextTokenizer, id: int) -> bytes:
        raw = tokenizer.piece(id)
        if raw[:1] == SPECIAL:  # one byte of no character
            return b""
        spelled = tokenizer.spelling(id)
        if raw and not looks_like_control(spelled) and (raw != REPLACEMENT or spelled == "\ufffd"):
            return raw
        name = spelled.encode("utf-8", "replace")
        self.special.setdefault(name, id)
        return SPECIAL + name

    def __call__(self, text: str | bytes) -> list[int]:
        """Tokens that spell exactly this text, as the model was trained on it."""
        try:
            return self._encode(text)
        except BaseException as error:  # such as a signal's handler raises; llguidance would call the grammar wrong
            self._raised.error = error
            return self._greedy(text if isinstance(text, str) else text.decode("utf-8", "replace"))

    def check(self) -> None:
        """Raises what a call in this thread raised."""
        error, self._raised.error = getattr(self._raised, "error", None), None
        try:
            if error is not None:
                raise error
        finally:
            del error

    def _encode(self, text: str | bytes) -> list[int]:
        raw = text if isinstance(text, bytes) else text.encode("utf-8", "replace")
        spelled = raw.decode("utf-8", "replace")
        tokenizer = self._owner().tokenizer
        for before in ("", "\n"):  # some vocabularies put a space before what they encode
            try:
                ids = tokenizer.encode(before + spelled, add_special=False)
            except TokenizerError:
                break
            for i in range(min(len(ids), 4)):
                if b"".join(self.tokens[id] for id in ids[i:]) == raw:
                    return ids[i:]
        return self._greedy(spelled)

    def _greedy(self, text: str) -> list[int]:
        found: list[int] = self._owner().vocabulary.greedy_tokenize(text)
        return found

    def _owner(self) -> Grammars:
        owner = self._grammars()
        assert owner is not None
        return owner


class Grammar:
    """A compiled structure. ``warnings``: keywords of a schema that are ignored, where it is not strict."""

    def __init__(self, grammars: Grammars, structure: Structure) -> None:
        ll = _package()
        self.grammars = grammars
        self.structure = structure
        limits = ll.LLParserLimits(**LIMITS)
        self._made = ll.LLMatcher(grammars.vocabulary, grammars.source(structure), log_level=0, limits=limits)
        if self._made.is_error():
            raise schema.explained(self._made.get_error(), structure)
        self.warnings = schema.warnings(self._made.get_grammar_warnings(), structure)
        first = self.matcher()
        first.forced()
        if not first.complete:  # what is too complex from the start is refused here
            self._made.compute_bitmask()
            first = self.matcher()
            if first.complete and not first.accepting:
                raise GrammarError("no text matches", place=structure.kind)

    def matcher(self) -> Matcher:
        """A new one, at the beginning."""
        return Matcher(self, self._made.deep_copy())


class Matcher:
    """Where a text is in its grammar. For one thread at a time. Raises GrammarError, also where it is too complex."""

    __slots__ = ("_address", "_grammar", "_made", "_words")

    def __init__(self, grammar: Grammar, made: Any) -> None:
        self._grammar = grammar
        self._made = made
        self._words: Words | None = None  # that the last mask was written into
        self._address = 0  # of these

    def fork(self) -> Matcher:
        """Another one, at the same place."""
        return Matcher(self._grammar, self._made.deep_copy())

    @property
    def accepting(self) -> bool:
        """Whether the text may end here."""
        return bool(self._made.is_accepting())

    @property
    def complete(self) -> bool:
        """Whether nothing may follow."""
        if not self._made.is_stopped():
            return False
        if self._made.is_error():
            raise self._error()
        return True

    def advance(self, ids: Sequence[int]) -> None:
        """Takes tokens."""
        with native:
            taken = not ids or self._made.consume_tokens(ids)
        if not taken:
            raise self._error()

    def forced(self) -> list[int]:
        """The tokens that must follow, as the model spells them; the last may be left out where a longer one could
        take its place. None where nothing may follow."""
        made = self._made
        with native:
            found: list[int] = made.compute_ff_tokens()
            if found:
                del found[made.validate_tokens(found) :]
        self._grammar.grammars.spelling.check()
        if not found and made.is_error():
            raise self._error()
        return found

    def mask(self, words: Words, ends: bool = True) -> None:
        """Writes a bit for each token of the model: whether it may follow. ends: also for those that end the text,
        where it may end; else only where nothing else may follow."""
        grammars = self._grammar.grammars
        self._write(words)
        if ends:
            words &= grammars.all
            return
        words &= grammars.texts
        if self._made.is_accepting() and not words.any():
            self._write(words)
            words &= grammars.all

    def _write(self, words: Words) -> None:
        """The mask as llguidance has it, whose vocabulary may have one token more."""
        made = self._made
        with native:
            if self._grammar.grammars.padded:
                words[:] = np.frombuffer(made.compute_bitmask(), np.uint32)[: len(words)]
            else:
                if words is not self._words:
                    self._words, self._address = words, words.ctypes.data
                made.unsafe_compute_mask_ptr(self._address, words.nbytes)
        if made.is_error():
            raise self._error()

    def _error(self) -> GrammarError:
        return schema.explained(self._made.get_error(), self._grammar.structure)


def _compiled(work: Any) -> Grammar:
    """The result of `work` in a thread with a stack deep enough for what may be nested in `LIMIT` bytes."""
    made: list[Grammar] = []
    failed: list[BaseException] = []

    def run() -> None:
        try:
            made.append(work())
        except BaseException as error:
            failed.append(error)

    with _locks.stack, out_of_memory("to compile a grammar"):
        before = threading.stack_size(STACK)
        try:
            # Not a daemon thread: the native code of llguidance crashes if it still runs when the interpreter exits.
            thread = threading.Thread(target=run, name="pellucid grammar")
            thread.start()
        finally:
            threading.stack_size(before)
    thread.join()
    if failed:
        raise failed.pop()  # kept by nothing that its traceback refers to
    return made[0]


class _Locks:
    def __init__(self) -> None:
        self.table = threading.Lock()  # of the known grammars
        self.stack = threading.Lock()  # of the stack's size, which is the process's


def _after_fork() -> None:
    global _locks
    _locks = _Locks()


_locks = _Locks()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
