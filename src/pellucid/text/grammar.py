"""Grammars over a vocabulary: JSON schemas, regular expressions, choices, Lark and GBNF, compiled by llguidance.

    grammars = Grammars(tokenizer, size)
    matcher = grammars.compile(Structure("schema", '{"type": "object"}')).matcher()
    matcher.forced(); matcher.mask(words); matcher.advance(id); matcher.accepting; matcher.complete

llguidance does not fetch what a schema refers to. Input that would make it crash or compute for long is rejected first:
see `LIMITS`, `_compiled` and schema.py.
"""

from __future__ import annotations

import json
import os
import re
import threading
import weakref
from collections import OrderedDict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from pellucid.errors import GrammarError, PellucidError, TokenizerError, out_of_memory
from pellucid.native import native
from pellucid.structure import Structure
from pellucid.text import gbnf, schema
from pellucid.text.special import looks_like_control

if TYPE_CHECKING:
    import numpy.typing as npt

    from pellucid.text import TextTokenizer

    Words = npt.NDArray[np.uint32]

__all__ = ["Grammar", "Grammars", "Matcher", "NoGrammarsError", "grammars_of"]

KEPT = 64  # compiled grammars of a vocabulary
KEPT_TEXT = 1 << 18  # characters of these in total: malicious ones take 200 times as many bytes
SPECIAL = b"\xff"  # begins a token that no text spells, as llguidance requires
REPLACEMENT = "\ufffd".encode()
STACK = 256 << 20  # bytes of address space. 64 KB of grammar can be nested some 30,000 deep; 8 MB hold 3,000 to 7,000

# Tokens of only these letters are not tested one by one where any text of these letters may follow, as in [a-z ]{1000}:
# a mask of SmolLM2's 49,152 tokens takes 25 us instead of 300. (llguidance has such classes for JSON.)
LETTERS = (r"[a-z ]{1,20}", r"[A-Za-z ]{1,20}", r"[A-Za-z0-9 ]{1,20}")

# Pellucid's options, which replace those of a client's schema (x-guidance). Without white space, a text cannot be
# endless.
OPTIONS = {"item_separator": ",", "key_separator": ":", "whitespace_flexible": False, "whitespace_pattern": None}
# Limits per step: 10,000 items take about 0.5 s at worst. Per grammar: 20,000 symbols, 8 for each property of an
# object.
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
    """The grammars of a vocabulary: the last ones stay compiled, up to `KEPT` of them and `KEPT_TEXT` characters. Safe
    to share between threads.

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
        if not ends:  # llguidance needs one; none of Pellucid's masks has it
            self.spelling.tokens.append(SPECIAL + b"<end>")
            ends = [size]
        self.spelling.eos_token_id = ends[0]
        self.padded = (len(self.spelling.tokens) + 31) // 32 > self.words  # llguidance's masks have one more word
        classes = [*LETTERS, *self._ll.LLTokenizer.general_slices()]
        with native, out_of_memory("for a grammar's vocabulary"):
            self.vocabulary = self._ll.LLTokenizer(self.spelling, eos_token=ends, slices=classes)
        self._known: OrderedDict[Structure, Grammar] = OrderedDict()

    def compile(self, structure: Structure) -> Grammar:
        """Compiles a structure. Raises GrammarError if it is invalid, cannot be enforced, or is too complex."""
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
        """Forgets the compiled grammars that nothing uses. Takes no lock: a signal handler may close a model."""
        self._known = OrderedDict()

    def source(self, structure: Structure) -> str:
        """A structure in llguidance's input format: a JSON list of grammars."""
        content = self._content(structure)
        if not structure.calls:
            return json.dumps({"grammars": [content]})
        return json.dumps({"grammars": [{"lark_grammar": structure.calls}, {**content, "name": "content"}]})

    def _content(self, structure: Structure) -> dict[str, Any]:
        kind, text = structure.kind, structure.text
        if kind == "schema":
            root = schema.checked(text, structure.strict)
            # Options in the schema itself are dropped.
            root["x-guidance"] = {**OPTIONS, "lenient": not structure.strict, "coerce_one_of": not structure.strict}
            return {"json_schema": root}
        if kind == "regex":
            # In llguidance's own conversion, no comment ends at its line (?x).
            schema.check_expression(text, kind)
            spelled = {"/": "\\/", "\\\n": "\\n"}
            written = re.sub(r"\\.|/", lambda found: spelled.get(found[0], found[0]), text, flags=re.S)
            return {"lark_grammar": f"start: /{written}/"}
        if kind == "choice":
            texts = " | ".join(json.dumps(one, ensure_ascii=False) for one in json.loads(text))
            return {"lark_grammar": f"start: TEXT\nTEXT: {texts}\n"}
        return {"lark_grammar": self._lark(text)}

    @staticmethod
    def _lark(text: str) -> str:
        if not gbnf.is_gbnf(text):
            return schema.checked_lark(text)
        try:
            return gbnf.to_lark(text)
        except RecursionError:
            raise GrammarError("nested too deeply", place="grammar") from None
        except ValueError as error:
            raise GrammarError(f"not GBNF: {error}", place="grammar") from None


def grammars_of(tokenizer: TextTokenizer, size: int) -> Grammars:
    """The grammars of a tokenizer, for a model of `size` tokens; built at the first use, possibly by two threads."""
    known: dict[int, Grammars] = vars(tokenizer).setdefault("_grammars", {})  # freed with the tokenizer
    made = known.get(size)
    return known.setdefault(size, Grammars(tokenizer, size)) if made is None else made


def forget(tokenizer: TextTokenizer) -> None:
    """Releases a tokenizer's grammars: they are freed once nothing uses them, without garbage collection."""
    for grammars in list(vars(tokenizer).pop("_grammars", {}).values()):
        grammars.forget()


class _Spelling:
    """A tokenizer in the form that llguidance needs: the text of each token, and the tokens of a text. llguidance holds
    a reference that Python's cycle collector cannot see, so it refers to neither the tokenizer nor the grammars."""

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
        if raw[:1] == SPECIAL:  # a byte that occurs in no character
            return b""
        spelled = tokenizer.spelling(id)
        if raw and not looks_like_control(spelled) and (raw != REPLACEMENT or spelled == "\ufffd"):
            return raw
        name = spelled.encode("utf-8", "replace")
        self.special.setdefault(name, id)
        return SPECIAL + name

    def __call__(self, text: str | bytes) -> list[int]:
        """Tokens that spell exactly this text, as the model's tokenizer would cut it."""
        try:
            return self._encode(text)
        except BaseException as error:  # such as from a signal handler, which llguidance would not pass on
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
        for before in ("", "\n"):  # some vocabularies put a space before the text
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
    """A compiled structure. ``warnings``: keywords of a schema that are ignored, if it is not strict."""

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
        if not first.complete:  # a grammar that is too complex from the start is rejected here
            self._made.compute_bitmask()
            first = self.matcher()
            if first.complete and not first.accepting:
                raise GrammarError("no text matches", place=structure.kind)

    def matcher(self) -> Matcher:
        """A new matcher, at the beginning."""
        return Matcher(self, self._made.deep_copy())


class Matcher:
    """The position of a text in its grammar. For use by one thread at a time. Raises GrammarError, also if a step is
    too complex."""

    __slots__ = ("_address", "_grammar", "_made", "_words")

    def __init__(self, grammar: Grammar, made: Any) -> None:
        self._grammar = grammar
        self._made = made
        self._words: Words | None = None  # where the last mask was written
        self._address = 0  # of `_words`

    def fork(self) -> Matcher:
        """A copy at the same position."""
        return Matcher(self._grammar, self._made.deep_copy())

    @property
    def accepting(self) -> bool:
        """Whether the text may end here."""
        return bool(self._made.is_accepting())

    @property
    def complete(self) -> bool:
        """Whether nothing can follow."""
        if not self._made.is_stopped():
            return False
        if self._made.is_error():
            raise self._error()
        return True

    def advance(self, ids: Sequence[int]) -> None:
        """Advances by tokens."""
        with native:
            taken = not ids or self._made.consume_tokens(ids)
        if not taken:
            raise self._error()

    def forced(self) -> list[int]:
        """The tokens that must follow, as the model spells them; the last is left out if a longer token could take its
        place. None if nothing may follow."""
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
        """Writes a bit for each token of the model: whether it may follow. ends: include tokens that end the text, if
        it may end; otherwise only if nothing else may follow."""
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
        """The mask as llguidance computes it; its vocabulary may have one more token."""
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
    """The result of `work` in a thread whose stack is deep enough for any nesting in `LIMIT` bytes."""
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
        raise failed.pop()  # removed from the list, so that the traceback does not refer to it
    return made[0]


class _Locks:
    def __init__(self) -> None:
        self.table = threading.Lock()  # of the known grammars
        self.stack = threading.Lock()  # of the stack size, which is a setting of the process


def _after_fork() -> None:
    global _locks
    _locks = _Locks()


_locks = _Locks()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
