"""The public tokenizer, and how it is read from each kind of file."""

from __future__ import annotations

import copy
import json
import os
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from pellucid.chat_files import ForChats, named_templates, named_tokens
from pellucid.checks import flag, string
from pellucid.errors import ModelFileError, TokenizerError, WrongType, shown
from pellucid.gguf_vocabulary import for_chats, vocabulary_of
from pellucid.progress import reporting
from pellucid.text import TextTokenizer, Vocabulary, build
from pellucid.text.stream import TextStream
from pellucid.text.vocabulary import BYTE, CONTROL, NORMAL, USER_DEFINED, quoted
from pellucid.tokenizer_classes import adapt, added_tokens, tokenizer_class, with_map

if TYPE_CHECKING:
    from pellucid.text.chat import Chat
    from pellucid.text.grammar import Grammars
    from pellucid.weights.base import ModelFile
    from pellucid.weights.store import Progress

__all__ = ["Tokenizer", "folder_description", "folder_tokenizer", "pieces_of"]

Ends = Callable[[int], list[int]]  # the size of a vocabulary -> ids that end a generation, besides its own

_CHATS = 8  # compiled chat templates that a tokenizer keeps
_SPM_MODELS = {1: "unigram", 2: "spm"}


class Tokenizer:
    """Text to token ids and back. Immutable, and safe to share between threads.

    ``vocab_size``; ``bos`` and ``eos``: ids or None; ``eog``: the ids that end a generation (EOS and others);
    ``add_bos``: whether ``encode`` puts BOS first; ``chat_template``: its source, or None.
    """

    def __init__(self, text: TextTokenizer = None) -> None:  # type: ignore[assignment]  # None: as if forgotten
        if text is None or isinstance(text, (str, os.PathLike)):
            given = "" if text is None else shown(text)
            raise WrongType("Tokenizer", f"({given}): use Tokenizer.load({given or 'path'})")
        self._text = text
        self.for_chats = ForChats()
        self._chats: dict[str | None, Chat] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Omits what can be made again: templates and grammars, which cannot be pickled."""
        text = copy.copy(self._text)
        for name in ("_grammars", "_marked"):
            vars(text).pop(name, None)
        return {**vars(self), "_text": text, "_chats": {}}

    def __repr__(self) -> str:
        return f"<Tokenizer: {self.vocab_size} tokens, BOS {self.bos}, EOS {self.eos}>"

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, progress: Progress | bool | None = None) -> Tokenizer:
        """Loads a tokenizer from a GGUF file (also one with only a vocabulary), a tokenizer.json, a SentencePiece
        model, or a folder with one of the latter two; or from a model by its name, as ``Model.load`` does. Only the
        vocabulary is read.

        progress: as for ``Model.load``, for a download. Raises ``TokenizerError`` or ``ModelFileError``, naming file
        and field; ``FetchError`` as ``Model.load`` does.
        """
        from pellucid.weights import locate

        with reporting(progress) as report:
            where = Path(locate("path", path, report))
        if os.path.isdir(where):
            return folder_tokenizer(where)
        head = _read(where, 4)
        if head == b"GGUF":
            from pellucid.weights.gguf import open_gguf

            with open_gguf(where) as model_file:
                made = cls.from_gguf(model_file)
            if made is None:
                raise TokenizerError(f"{where}: tokenizer.ggml.model: missing; the file holds no vocabulary")
            return made
        if head.lstrip()[:1] == b"{":
            return _from_json(where, _Settings())
        if head[:1] == b"\n":
            return _from_spm(where, _Settings())
        raise TokenizerError(f"{where}: not a vocabulary; expected a GGUF file, a tokenizer.json or a tokenizer.model")

    @classmethod
    def from_gguf(cls, model_file: ModelFile) -> Tokenizer | None:
        """The tokenizer of an open GGUF file; None if it has no vocabulary. The file is not needed afterwards.
        Raises ``TokenizerError`` naming file and field.
        """
        vocabulary = vocabulary_of(model_file.metadata, os.fspath(model_file.path))
        if vocabulary is None:
            return None
        made = cls(build(vocabulary))
        made.for_chats = for_chats(model_file.metadata, vocabulary)
        return made

    @classmethod
    def from_vocabulary(cls, vocabulary: Vocabulary) -> Tokenizer:
        """The tokenizer of a model file's pieces. Raises TokenizerError if they are not a vocabulary."""
        return cls(build(vocabulary))

    @property
    def vocab_size(self) -> int:
        return self._text.vocab_size

    @property
    def bos(self) -> int | None:
        return self._text.bos

    @property
    def eos(self) -> int | None:
        return self._text.eos

    @property
    def eog(self) -> frozenset[int]:
        return self._text.eog

    @property
    def add_bos(self) -> bool:
        return self._text.add_bos

    @property
    def chat_template(self) -> str | None:
        return self._text.chat_template

    def chat(self, template: str | None = None) -> Chat:
        """The formatter of conversations, with ``template`` (Jinja) or the vocabulary's own; compiled once.

        Raises ``ChatTemplateError`` if there is none, or if it is broken.
        """
        from pellucid.text.chat import Chat, ToolChat

        if template is not None:
            template = string("template", template, "text")
        made = self._chats.get(template)
        if made is None:
            names, tools = self.for_chats
            if template is None and tools is not None:
                made = ToolChat(self._text, names, tools)
            else:
                made = Chat(self._text, template, names)
            if len(self._chats) >= _CHATS:
                self._chats.clear()
            self._chats[template] = made
        return made

    def grammars(self, size: int | None = None) -> Grammars:
        """The compiler of schemas and grammars, for a model with `size` tokens; built at its first use."""
        from pellucid.text.grammar import grammars_of

        return grammars_of(self._text, size or self.vocab_size)

    def forget_grammars(self) -> None:  # grammars in use live on until released; for Core.close
        if "_grammars" in vars(self._text):
            from pellucid.text.grammar import forget

            forget(self._text)

    def encode(self, text: str, add_special: bool | None = True, parse_special: bool | None = False) -> list[int]:
        """Token ids of ``text``; ``add_special`` adds BOS and EOS if the vocabulary specifies them.

        The spelling of a control token is ordinary text, unless ``parse_special`` makes it that token; user-defined
        tokens (runs of spaces, ``<think>``) always match, except those that look like ``<|...|>``. Raises ``TypeError``
        if ``text`` is not a ``str``; ``TokenizerError``, with the position, for lone surrogates and for characters that
        the vocabulary cannot represent.
        """
        adds = flag("add_special", True if add_special is None else add_special)
        return self._text.encode(text, adds, flag("parse_special", False if parse_special is None else parse_special))

    def encode_pair(self, first: str, second: str) -> tuple[list[int], list[int]]:
        """(ids of two texts as BERT and XLM-R read them together; for each id, the type of its text: 0 or 1).

        Raises as :meth:`encode` does, and ``TokenizerError`` if the vocabulary does not join texts.
        """
        return self._text.encode_pair(first, second)

    def spans(
        self, text: str, add_special: bool | None = True, parse_special: bool | None = False
    ) -> list[tuple[int, int]]:
        """Where each token of ``encode(text)`` is: text[start:end], in characters. A token that is part of a character
        spans the whole character; one that the tokenizer adds is empty.

        Raises as :meth:`encode` does, and ``TokenizerError`` if the vocabulary changes the text, so that its tokens do
        not spell it.
        """
        ids, parse = self.encode(text, add_special, parse_special), bool(parse_special)
        data = text.encode()
        starts = [i for i, byte in enumerate(data) if byte & 0xC0 != 0x80]  # start of each character
        spans: list[tuple[int, int]] = []
        at, first = 0, True
        for id in ids:
            piece = self.piece(id, special=parse and data.startswith(self.piece(id, special=True), at))
            if first and piece and not data.startswith(piece, at):  # the space that SentencePiece puts before a text
                piece = piece.removeprefix(b" ")
            if not data.startswith(piece, at):
                raise TokenizerError(f"token {id}, {quoted(self.spelling(id))}, is not what the text has at byte {at}")
            end = at + len(piece)
            spans.append((bisect_right(starts, at) - 1 if piece else bisect_left(starts, at), bisect_left(starts, end)))
            first = first and not piece
            at = end
        if at < len(data):
            raise TokenizerError(f"the tokens spell {at} of the text's {len(data)} bytes")
        return spans

    def decode(self, ids: Iterable[int], *, special: bool = False) -> str:
        """The text of ``ids``, the exact inverse of ``encode``; bytes that are not UTF-8 become U+FFFD.

        Control tokens (BOS, EOS, chat markers) decode to no text; ``special=True`` returns their spellings.
        Raises ``ValueError`` with the id and the vocabulary's size if one is out of range.
        """
        return self._text.decode(ids, special=flag("special", special))

    def piece(self, id: int, *, special: bool = False) -> bytes:
        """The bytes of ``id``, possibly part of a character; ``b""`` for a control token, or its spelling
        if ``special``. Raises ``ValueError`` if it is out of range."""
        return self._text.piece(id, special=flag("special", special))

    def spelling(self, id: int) -> str:
        """The token as the vocabulary spells it, e.g. ``Ġthe``, ``<0x0A>`` or ``<|im_end|>``."""
        return self._text.spelling(id)

    def stream(self, stop: Iterable[str] = ()) -> TextStream:
        """A :class:`~pellucid.text.stream.TextStream` over this vocabulary."""
        return TextStream(self.piece, stop)


def pieces_of(tokenizer: Tokenizer) -> Callable[[int], bytes]:
    """``Tokenizer.piece`` for ids that a model drew, which need no check; ``b""`` for those beyond the vocabulary,
    which a padded embedding has."""
    text = tokenizer._text
    known, size = text.pieces, text.vocab_size

    def piece(id: int) -> bytes:
        raw = known[id] if id < size else b""
        return text.piece(id) if raw is None else raw

    return piece


# -- files other than GGUF

_JSON_LIMIT = 1 << 28  # bytes; the largest published tokenizer.json has 33 MB


def _read(path: Path, limit: int) -> bytes:
    from pellucid.weights.base import check_regular

    try:
        check_regular(str(path), path.stat().st_mode, "a file")
        with path.open("rb") as file:
            return file.read(limit)
    except (OSError, ModelFileError, ValueError) as error:  # ValueError: a path that cannot be a file's
        reason = error.message if isinstance(error, ModelFileError) else getattr(error, "strerror", None) or error
        raise TokenizerError(f"{path}: {reason}; expected a file or folder with a vocabulary") from None


def _json_table(path: Path) -> dict[str, Any]:
    """A small JSON file beside the vocabulary; empty if it does not exist."""
    if not path.exists():
        return {}
    try:
        table = json.loads(_read(path, _JSON_LIMIT))
    except (ValueError, RecursionError) as error:
        raise TokenizerError(f"{path}: not JSON: {error}") from None
    if not isinstance(table, dict):
        raise TokenizerError(f"{path}: it is {quoted(table)}; expected a table")
    return table


def _no_ends(size: int) -> list[int]:
    return []


class _Settings(NamedTuple):
    """What a folder specifies besides the vocabulary: tokenizer_config.json combined with special_tokens_map.json and
    the chat template, config.json, the ids that end a generation, added_tokens.json, and tokenizer_config.json on its
    own."""

    config: Mapping[str, Any] = MappingProxyType({})
    model: Mapping[str, Any] = MappingProxyType({})
    ends: Ends = _no_ends
    added: Mapping[str, Any] = MappingProxyType({})
    given: Mapping[str, Any] = MappingProxyType({})


def _spelling(config: Mapping[str, Any], name: str) -> str | None:
    """A special token's spelling, which the file gives as text or as a table with ``content``."""
    value = config.get(name)
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) else None


def _templates(config: Mapping[str, Any], folder: Path) -> dict[str, str]:
    """The chat templates "default" and "tool_use", from files of their own, else from tokenizer_config.json, else from
    chat_template.json."""
    files = {"default": folder / "chat_template.jinja"}
    for name in ("default", "tool_use"):
        if (file := folder / "additional_chat_templates" / f"{name}.jinja").exists():
            files[name] = file
    found = {name: _read(file, _JSON_LIMIT).decode("utf-8", "replace") for name, file in files.items() if file.exists()}
    if "default" in found:
        return found
    value = config.get("chat_template") or _json_table(folder / "chat_template.json").get("chat_template")
    return {**named_templates(value), **found}


def _template(config: Mapping[str, Any], folder: Path) -> str | None:
    return _templates(config, folder).get("default")


def _settings(folder: Path) -> _Settings:
    given = _json_table(folder / "tokenizer_config.json")
    config = with_map(given, _json_table(folder / "special_tokens_map.json"))
    if templates := _templates(config, folder):
        config = {**config, "chat_template": templates}
    added = _json_table(folder / "added_tokens.json")
    return _Settings(config, _json_table(folder / "config.json"), folder_ends(folder), added, given)


def folder_ends(path: str | os.PathLike[str]) -> Ends:
    """The ids that end a generation, from eos_token_id in a folder's generation_config.json or, without that file, in
    config.json (or its text_config), as in transformers, without ids beyond the vocabulary.

    Raises ``TokenizerError``, naming file and key: immediately for values that are not ids, later for ids beyond the
    vocabulary.
    """
    file, key = Path(path) / "generation_config.json", "eos_token_id"
    there = file.exists()
    if not there:
        file = Path(path) / "config.json"
    table = _json_table(file)
    value = table.get(key)
    if value is None and not there and isinstance(table.get("text_config"), dict):
        value, key = table["text_config"].get(key), f"text_config.{key}"
    ids = value if isinstance(value, list) else [] if value is None else [value]
    if any(type(i) is not int for i in ids):
        raise TokenizerError(f"{file}: {key}: it is {quoted(value)}; expected a token id, or a list of them")

    def ends(size: int) -> list[int]:
        found = [i for i in ids if 0 <= i < size]
        if there and len(found) < len(ids):
            wrong = next(i for i in ids if not 0 <= i < size)
            raise TokenizerError(
                f"{file}: {key}: it has {shown(wrong)}; expected ids of the vocabulary, 0 to {size - 1}"
            )
        return found

    return ends


def folder_tokenizer(path: str | os.PathLike[str], rows: int | None = None) -> Tokenizer:
    """The tokenizer of a Hugging Face folder. rows: of the model's embedding: added tokens beyond it are left out, and
    their spellings stay text. Raises ``TokenizerError``."""
    for name, read in (("tokenizer.json", _from_json), ("tokenizer.model", _from_spm)):
        if (file := Path(path) / name).exists():
            settings = _settings(file.parent)
            made = read(file, settings, rows)
            tool_template = named_templates(settings.config.get("chat_template")).get("tool_use")
            made.for_chats = ForChats(named_tokens(settings.config), tool_template)
            return made
    raise TokenizerError(f"{path}: no vocabulary; expected tokenizer.json or tokenizer.model in the folder")


def _from_json(path: Path, settings: _Settings, rows: int | None = None) -> Tokenizer:
    from pellucid.text.hf import JsonTokenizer

    config = settings.config
    try:
        description = _read(path, _JSON_LIMIT).decode()
        own = tokenizer_class(config, settings.model, description)
        made = JsonTokenizer(
            description,
            bos=_spelling(settings.given, "bos_token"),
            eos=_spelling(settings.given, "eos_token"),
            usual={
                key: one
                for key, default in (("bos_token", own.bos), ("eos_token", own.eos))
                if (one := _spelling(config, key) if key in config else default) is not None
            },
            chat_template=_template(config, path.parent) if config else None,
            rows=rows,
            adapt=lambda table: adapt(own, path.parent, config, table),
        )
    except UnicodeDecodeError as error:
        raise TokenizerError(f"{path}: not UTF-8 at byte {error.start}; expected JSON") from None
    except (TokenizerError, ValueError) as error:
        raise TokenizerError(f"{path}: {error}") from error
    made.end_with(settings.ends(made.vocab_size))
    return Tokenizer(made)


def folder_description(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The table of a folder's tokenizer.json, as changed by the folder's tokenizer class. Raises as ``Tokenizer.load``
    does."""
    file, settings = Path(path) / "tokenizer.json", _settings(Path(path))
    text = _read(file, _JSON_LIMIT)
    try:
        description = text.decode()
        table: dict[str, Any] = json.loads(description)
        adapt(tokenizer_class(settings.config, settings.model, description), path, settings.config, table)
    except (TokenizerError, ValueError) as error:
        raise TokenizerError(f"{file}: {error}") from error
    return table


def _from_spm(path: Path, settings: _Settings, rows: int | None = None) -> Tokenizer:
    return Tokenizer(build(_sentencepiece(path, settings, rows)))


def sentencepiece_vocabulary(folder: str | os.PathLike[str], rows: int) -> Vocabulary:
    """The vocabulary of a folder's tokenizer.model, with the tokens that its configuration adds, up to `rows`. Raises
    ``TokenizerError``."""
    return _sentencepiece(Path(folder) / "tokenizer.model", _settings(Path(folder)), rows)


def _sentencepiece(path: Path, settings: _Settings, rows: int | None) -> Vocabulary:
    from pellucid._parsers import decode_spm

    config = settings.config
    try:
        parts = decode_spm(_read(path, _JSON_LIMIT))
    except TokenizerError as error:
        raise TokenizerError(f"{path}: {error}") from None
    if parts["model_type"] not in _SPM_MODELS:
        raise TokenizerError(f"{path}: model_type is {parts['model_type']}; only 1 (unigram) and 2 (BPE) are supported")
    wanted = {"precompiled_charsmap": b"", "remove_extra_whitespaces": 0, "escape_whitespaces": 1}
    for name, value in wanted.items():
        if parts[name] != value:
            raise TokenizerError(f"{path}: {name} is {quoted(parts[name])}; only {quoted(value)} is supported")
    pieces, scores, types = parts["pieces"], parts["scores"], parts["types"]
    tokens = added_tokens(config, settings.added)
    types = _add_tokens(pieces, types, tokens, rows)
    scores = np.append(scores, np.zeros(len(pieces) - len(scores), np.float32))
    if not parts["byte_fallback"]:
        types[types == BYTE] = CONTROL
    index = {piece: i for i, piece in enumerate(pieces)}

    def id_of(name: str, default: str) -> int | None:
        spelling = _spelling(config, name)
        try:
            return index.get((default if spelling is None else spelling).encode())
        except UnicodeEncodeError:
            file = path.parent / "tokenizer_config.json"
            raise TokenizerError(f"{file}: {name}: it is {quoted(spelling)}; expected text that is UTF-8") from None

    own = tokenizer_class(config, settings.model)
    bos = id_of("bos_token", own.bos or "<s>")
    add_bos, add_eos = config.get("add_bos_token", True), config.get("add_eos_token", False)
    return Vocabulary(
        model=_SPM_MODELS[parts["model_type"]],
        pieces=pieces,
        scores=scores,
        types=types,
        bos=bos,
        eos=id_of("eos_token", own.eos or "</s>"),
        unk=id_of("unk_token", "<unk>"),
        pad=id_of("pad_token", "<pad>"),
        eog=tuple(settings.ends(len(pieces))),
        strips=_stripping(pieces, tokens, "rstrip"),
        strips_before=_stripping(pieces, tokens, "lstrip"),
        add_bos=bool(add_bos) and bos is not None,
        add_eos=bool(add_eos),
        add_space_prefix=bool(parts["add_dummy_prefix"]),
        prefixes_once=bool(parts["add_dummy_prefix"]) and not config.get("legacy", own.legacy),
        chat_template=_template(config, path.parent) if config else None,
        source=str(path),
    )


def _add_tokens(pieces: list[bytes], types: Any, tokens: Mapping[int, Mapping[str, Any]], rows: int | None) -> Any:
    """Renames pieces that are added tokens and appends those beyond the pieces, up to `rows` -> the types of all."""
    kept = {piece for i, piece in enumerate(pieces) if i not in tokens}
    types = types.copy()
    for i, token in tokens.items():
        text, kind = token["content"].encode("utf-8", "replace"), CONTROL if token.get("special") else USER_DEFINED
        if i == len(pieces) != rows:
            pieces.append(text)
            types = np.append(types, np.int32(kind))
        elif i < len(pieces) and text not in kept and (text != pieces[i] or types[i] == NORMAL):
            pieces[i], types[i] = text, kind
    return types


def _stripping(pieces: list[bytes], tokens: Mapping[int, Mapping[str, Any]], key: str) -> frozenset[int]:
    """Added tokens that remove the white space beside them."""
    spelled = {i: token["content"].encode("utf-8", "replace") for i, token in tokens.items() if token.get(key) is True}
    return frozenset(i for i, text in spelled.items() if i < len(pieces) and pieces[i] == text)
