"""Special tokens: which of them end a generation, which may match in text, and how they are found."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Container, Iterator, Mapping

from pellucid.text.vocabulary import CONTROL, Vocabulary

__all__ = ["END", "Finder", "counting", "end_ids", "ends_a_message", "looks_like_control", "looks_special"]

# Spellings that end a turn, or begin another file or repository; model files specify at most one of them as EOS.
END = frozenset(
    {
        "<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<|end|>", "<|endoftext|>", "<|end_of_text|>", "<end_of_turn>",
        "<turn|>", "<end_of_utterance>", "<EOT>", "_<EOT>", "[EOT]", "<|return|>", "<|call|>", "<｜end▁of▁sentence｜>",
        "<|calls|>", "<|flush|>", "<|tool_response>", "[e~[", "<|ifm|im_end|>",
        "<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<|fim_repo|>", "<fim-repo>", "<|repo_name|>", "<reponame>",
        "<|file_sep|>",
    }
)  # fmt: skip
# These do only if the file marks them as control tokens: in Gemma, "</s>" is an HTML tag.
_END_IF_CONTROL = frozenset({"</s>", "<eos>", "[EOS]", "<PAD>", "[PAD]", "<REPO>"})
_CONTROL = re.compile(r"<\|.*\|>|<｜.*｜>", re.DOTALL)


def looks_like_control(text: str) -> bool:
    """True for ``<|...|>``: many files call such tokens user-defined, although they control the chat format."""
    return _CONTROL.fullmatch(text) is not None


def looks_special(text: str) -> bool:
    """True for ``<...>``, ``[...]`` and the spellings in END: a token of this kind is not a word."""
    return re.fullmatch(r"[<\[].+[>\]]", text, re.DOTALL) is not None or text in END


def end_ids(vocabulary: Vocabulary) -> frozenset[int]:
    """Ids that end a generation: EOS, EOT, EOM, the vocabulary's own list, and well-known spellings, whatever their
    type."""
    v = vocabulary
    found = {i for i in (v.eos, v.eot, v.eom) if i is not None} | set(v.eog)
    names = {name if isinstance(v.pieces[0], str) else name.encode(): name for name in END | _END_IF_CONTROL}
    by_name = {names[piece]: v.pieces.index(piece) for piece in frozenset(names).intersection(v.pieces)}
    for name in _END_IF_CONTROL & by_name.keys():
        if v.types is not None and v.types[by_name[name]] != CONTROL:
            del by_name[name]
    if ends_a_message(by_name):
        found.discard(by_name.pop("<|end|>", None))
    return frozenset(found | set(by_name.values()))


def ends_a_message(known: Mapping[str, int]) -> bool:
    """Whether ``<|end|>`` closes a message but not the turn (the formats of Harmony and Solar Open). known: END's
    spellings in the vocabulary."""
    calls, others = known.keys() & {"<|call|>", "<|calls|>"}, known.keys() & {"<|return|>", "<|flush|>"}
    return bool(calls and others)


def counting(text: str, marked: str, always: Container[str] = ()) -> Callable[[int, int], bool]:
    """A condition for :meth:`Finder.split`: spellings count if `marked`, the text with some characters replaced, has
    them, too. always: spellings that count everywhere."""

    def counts(start: int, end: int) -> bool:
        spelled = text[start:end]
        return spelled == marked[start:end] or spelled in always

    return counts


class Finder:
    """Finds the given texts inside a longer one: leftmost first, and of those the longest.

    One regular expression of their first characters finds candidates, and a table decides: thousands of special tokens
    cost nothing in text that has none.
    """

    def __init__(self, ids: Mapping[str, int]) -> None:
        self.ids = {text: i for text, i in ids.items() if text}
        width = min(4, min(map(len, self.ids), default=1))
        lengths: dict[str, set[int]] = defaultdict(set)
        for text in self.ids:
            lengths[text[:width]].add(len(text))
        self._lengths = {start: sorted(sizes, reverse=True) for start, sizes in lengths.items()}
        self._starts = re.compile("|".join(map(re.escape, self._lengths))) if lengths else None

    def split(self, text: str, counts: Callable[[int, int], bool] | None = None) -> Iterator[tuple[int, str | int]]:
        """Yield ``(position, part)`` in order: an id for a special text, a non-empty string for text in between.

        counts: whether a special text between two positions counts; by default, all do.
        """
        done = at = 0
        while self._starts is not None and (match := self._starts.search(text, at)) is not None:
            at = match.start()
            for size in self._lengths[match.group()]:
                found = self.ids.get(text[at : at + size])
                if found is not None and (counts is None or counts(at, at + size)):
                    if at > done:
                        yield done, text[done:at]
                    yield at, found
                    done = at = at + size
                    break
            else:
                at += 1
        if done < len(text):
            yield done, text[done:]
