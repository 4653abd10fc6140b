"""What results show in a notebook and at the prompt: escaped HTML of bounded size, and short text."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from IPython.lib.pretty import pretty

from pellucid import (
    Completion,
    Model,
    ModelInfo,
    Operation,
    Piece,
    SamplingOptions,
    Timings,
    TokenLogprob,
    ToolCall,
    ToolCallDelta,
    Trace,
    display,
    markup,
)
from pellucid.info import CacheShare, PlanTable
from pellucid.look import Attribution, Guess, Lens, Score, Token
from pellucid.look.choice import Step
from pellucid.look.tables import Look, Push
from pellucid.results import Gathered
from pellucid.weights import catalog

HOSTILE = [
    "<script>alert(1)</script>",
    "</bdi></td></table></div><img src=x onerror=alert(1)>",
    "\" onmouseover='alert(1)' \"",
    "'single' & &lt; &amp;",
    "<!-- ",
    "\x00\x07\x1b[31m\x7f\x9b",
    "\r\n\t\v\u2028\u2029",
    "\u202eabc\u202c \u2066x\u2069 \u200f\u061c",
    "\ud800 and \udfff",
    "$x_1$ \\(y\\) $$z$$",
    "\u05e9\u05dc\u05d5\u05dd \u0645\u0631\u062d\u0628\u0627",
    "\U0001f468\u200d\U0001f469 e\u0301 \ufeff\u00a0",
    "",
    "long " * 50_000,
]
TIMINGS = Timings(0.5, 0.25, 1.0, 0.3, 5, 20)


def logprobs(piece: str, n: int = 3) -> list[TokenLogprob]:
    return [TokenLogprob(i, piece, -0.5 * i, [(7, piece, -0.1), (8, "b", -3.0)]) for i in range(n)]


def completion(piece: str, n: int = 3) -> Completion:
    return _completion(piece * n, list(range(n)), logprobs(piece, n))


def bare(piece: str, n: int = 3) -> Completion:
    return _completion(piece * n, list(range(n)), [])


def _completion(text: str, ids: list[int], probabilities: list[TokenLogprob]) -> Completion:
    given: dict[str, Any] = {
        "text": text,
        "ids": ids,
        "finish_reason": "length",
        "prompt_tokens": 2,
        "logprobs": probabilities,
        "timings": TIMINGS,
        "prompt_ids": [1, 2],
        "end": probabilities[0] if probabilities else None,
        "seed": 1,
        "options": SamplingOptions(),
    }
    return Completion(**given)


def score(piece: str, n: int = 3) -> Score:
    return Score(list(range(n + 1)), logprobs(piece, n))


def trace(piece: str, n: int = 3) -> Trace:
    every = tuple(range(n))
    hidden = np.zeros((2, n, 4), np.float32)
    chances = np.array([0.5, 0.0, *[math.nan] * n][:n], np.float32)
    arrays = {"hidden": hidden, "next_probability": chances}
    return Trace([Token(i, piece) for i in range(n)], ((0,), (0,), every), arrays, piece, None)


def lens(piece: str, n: int = 3) -> Lens:
    return Lens([[Guess(i, piece, 0.25, 1.5) for i in range(4)] for _ in range(n)])


def wide_lens(piece: str, n: int = 3) -> Lens:
    return Lens([[Guess(i, piece, 0.25, 1.5) for i in range(n)] for _ in range(3)])


def attribution(piece: str, n: int = 3) -> Attribution:
    parts = np.linspace(-1, 1, n)
    return Attribution(4, Token(1, piece), 2.5, 0.5, parts, -parts, np.outer(parts, np.ones(9)), parts)


def plan(piece: str, n: int = 3) -> PlanTable:
    one = Operation(1, "linear", 3, piece, ((piece, 4),), (piece, 5), ((piece, piece, 2, 2),), 1000, piece)
    return PlanTable([one] * n)


def info(piece: str, n: int = 3) -> ModelInfo:
    values: dict[str, Any] = {"str": piece * n, "dict[str, str]": {piece: piece}, "dict[str, int]": {piece: 5}}
    values |= {"tuple[int, ...]": (5,), "tuple[CacheShare, ...]": (CacheShare(2, 512, 1024), CacheShare(1, 0, 512))}
    return ModelInfo(**{field.name: values.get(str(field.type), 1 << 24) for field in fields(ModelInfo)})


Make = Callable[..., markup.Shown]
EVERY: list[Make] = [completion, bare, score, trace, lens, wide_lens, attribution, plan, info]
ALLOWED = {"div", "bdi", "i", "table", "thead", "tbody", "tr", "th", "td"}


class Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.text, self.titles = "", ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in ALLOWED
        self.open.append(tag)
        for name, value in attrs:
            assert name in ("style", "title") or (name, value) == ("class", "tex2jax_ignore mathjax_ignore")
            if name == "style":
                assert value and "url" not in value and "&" not in value
            if name == "title":
                self.titles += value or ""

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data

    def handle_comment(self, data: str) -> None:
        raise AssertionError("a comment")

    def handle_decl(self, decl: str) -> None:
        raise AssertionError("a declaration")

    def handle_pi(self, data: str) -> None:
        raise AssertionError("a processing instruction")


def read(page: str) -> Reader:
    reader = Reader()
    reader.feed(page)
    reader.close()
    assert reader.open == []
    return reader


@pytest.mark.parametrize("make", EVERY, ids=lambda make: make.__name__)
@pytest.mark.parametrize("piece", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_text_is_only_text(make: Make, piece: str) -> None:
    page = make(piece)._repr_html_()
    assert len(page.encode()) <= markup.MOST_BYTES
    assert all(c.isprintable() or c in "\n\t" for c in page)
    reader = read(page)
    for text in (reader.text, reader.titles):
        assert not any(0x202A <= ord(c) <= 0x202E or 0x2066 <= ord(c) <= 0x2069 for c in text)


@pytest.mark.parametrize("make", [completion, bare, score, trace, lens, plan, info], ids=lambda make: make.__name__)
def test_the_text_is_there(make: Make) -> None:
    """What was escaped reads as it was; what is not printable is spelled out."""
    for piece in ("<script>x</script>", 'a & "b" &lt;', "\u05e9\u05dc\u05d5\u05dd"):
        assert piece in read(make(piece)._repr_html_()).text
    for piece, spelled in (("\x1b", "\\x1b"), ("\u202e", "\\u202e"), ("\ud800", "\\ud800")):
        assert spelled in read(make(piece)._repr_html_()).text


@pytest.mark.parametrize("make", EVERY, ids=lambda make: make.__name__)
def test_large_results_are_cut_and_say_so(make: Make) -> None:
    page = make("<\U0001f389>\n\x00", 20_000)._repr_html_()
    assert len(page.encode()) <= markup.MOST_BYTES
    text = read(page).text
    assert "not shown" in text or "are shown" in text or make is info  # of a field, "..." replaces the middle
    assert make is not info or "..." in text


def test_a_shortened_conversation_says_so() -> None:
    short = replace(completion("a"), dropped=2)
    assert "2 messages of the conversation left out" in read(short._repr_html_()).text


def test_reasoning_and_calls_are_shown() -> None:
    """Of a completion, and of a stream that has not ended."""
    call = ToolCall("a", "weather", '{"city": "<Paris>"}')
    done = replace(bare("x"), text="", reasoning="A <question>.", tool_calls=(call,))
    deltas = [ToolCallDelta(0, "a", "weather", '{"city": '), ToolCallDelta(0, None, None, '"<Paris>"}')]
    so_far = Gathered([1], SamplingOptions(), reasoning=["A <ques", "tion>."], calls=deltas)
    drawn = markup.Fragment()
    so_far.draw(drawn)
    for page in (done._repr_html_(), drawn.html()):
        found = read(page).text
        assert all(part in found for part in ("Reasoning:A <question>.", "weather", '{"city": "<Paris>"}'))


def test_what_grows_shows_its_end() -> None:
    fragment = markup.Fragment()
    fragment.text("begin" + "x" * markup.LATEST + "end", grows=True)
    found = read(fragment.html()).text
    assert "8 earlier characters" in found and found.endswith("xend") and "begin" not in found


@pytest.mark.parametrize("size", [1, 5_000])
def test_a_stream_is_drawn_ten_times_a_second_at_most(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """And large pictures less often; the last of them after an error, too."""
    now, drawn = 0.0, ""
    pictures: list[tuple[float, str]] = []

    class Handle:
        def update(self, data: dict[str, str], raw: bool) -> None:
            pictures.append((now, data["text/html"]))

    def show(data: dict[str, str], raw: bool, display_id: bool) -> Handle:
        Handle().update(data, raw)
        return Handle()

    def steps() -> Iterator[None]:
        nonlocal now, drawn
        for _ in range(100):
            now += 0.03
            drawn += "x" * size
            yield
        drawn = "whole"
        raise RuntimeError

    monkeypatch.setattr("IPython.display.display", show)
    monkeypatch.setattr("time.monotonic", lambda: now)
    with pytest.raises(RuntimeError):
        display.follow(steps(), lambda fragment: fragment.text(drawn), lambda: "x")
    assert pictures[0][0] == 0.0 and read(pictures[-1][1]).text == "whole"
    waits = [(after - before, len(page)) for (before, page), (after, _) in pairwise(pictures[:-1])]
    assert all(wait >= max(display.INTERVAL, bytes / display.MOST_RATE) - 1e-9 for wait, bytes in waits)
    assert all(wait <= max(display.INTERVAL, bytes / display.MOST_RATE) + 0.03 + 1e-9 for wait, bytes in waits)


def test_shades() -> None:
    """A probable token of a completion and a surprising token of a score have the stronger colour."""

    def opacities(page: str) -> Iterator[float]:
        for part in page.split("<bdi")[1:]:
            tag = part.partition(">")[0]
            yield float(tag.partition("rgba(")[2].partition(")")[0].rpartition(",")[2] or 0)

    sure, unsure = TokenLogprob(1, "a", -0.01, []), TokenLogprob(2, "b", -6.0, [])
    first, second, _ = opacities(_completion("ab", [1, 2], [sure, unsure])._repr_html_())
    assert first == pytest.approx(markup.STRONGEST, abs=0.01) and second < 0.01
    first, second = opacities(Score([0, 1, 2], [sure, unsure])._repr_html_())
    assert first < 0.01 and second == pytest.approx(markup.STRONGEST * 6 / math.log(2) / 12, abs=0.01)
    assert list(opacities(trace("a")._repr_html_())) == pytest.approx(
        [0, markup.STRONGEST / 12, markup.STRONGEST], abs=0.01
    )
    assert read(Score([0, 1, 2], [sure, unsure], "<s>")._repr_html_()).text.endswith("<s>ab")
    impossible = [TokenLogprob(1, "a", -math.inf, []), TokenLogprob(1, "b", math.nan, [])]
    assert list(opacities(Score([0, 1, 2], impossible)._repr_html_())) == [markup.STRONGEST, 0]


GROUNDS = {  # ground and text of light and dark themes of notebooks
    "JupyterLab, light": ((255, 255, 255), (33, 33, 33)),
    "JupyterLab, dark": ((17, 17, 17), (224, 224, 224)),
    "VS Code, light": ((255, 255, 255), (59, 59, 59)),
    "VS Code, dark": ((30, 30, 30), (204, 204, 204)),
    "Colab, dark": ((56, 56, 56), (227, 227, 227)),
}


@pytest.mark.parametrize("theme", GROUNDS)
def test_shaded_text_is_readable_in_light_and_dark_themes(theme: str) -> None:
    """By WCAG: a contrast of at least 4.5. No text has a colour of its own."""

    def luminance(colour: tuple[float, ...]) -> float:
        linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in (c / 255 for c in colour)]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    ground, text = GROUNDS[theme]
    for colour in (markup.BLUE, markup.ORANGE, markup.PURPLE):
        for share in (0.0, 0.5, 1.0):
            a = share * markup.STRONGEST
            behind = tuple(a * c + (1 - a) * g for c, g in zip(colour, ground, strict=True))
            low, high = sorted((luminance(behind), luminance(text)))
            assert (high + 0.05) / (low + 0.05) >= 4.5
    for make in EVERY:
        assert ";color" not in make("a")._repr_html_() and '"color' not in make("a")._repr_html_()


class Printer:
    def __init__(self) -> None:
        self.out = ""

    def text(self, text: str) -> None:
        self.out += text


@pytest.mark.parametrize("make", EVERY, ids=lambda make: make.__name__)
def test_plain_text_is_short_and_printable(make: Make) -> None:
    """What a terminal shows: tables at most, and no arrays."""
    for piece in HOSTILE[:-1] if make is not plan else ["a"]:  # a plan's names are Pellucid's own
        printer = Printer()
        make(piece, 1000)._repr_pretty_(printer, False)
        assert len(printer.out.splitlines()) <= markup.MOST_LINES
        assert "array(" not in printer.out
        assert all(c.isprintable() or c == "\n" for c in printer.out)


@pytest.mark.parametrize("make", EVERY, ids=lambda make: make.__name__)
def test_ipython_shows_tables(make: Make) -> None:
    assert pretty(make("a", 3)) == str(make("a", 3))
    assert len(pretty([make("a", 3)] * 2).splitlines()) <= 2 * markup.MOST_LINES + 2


def test_reprs_of_what_a_model_gives(smollm2: Path) -> None:
    async def streams() -> list[str]:
        one = model.astream("a", max_tokens=2)
        return [repr(one), *[repr(one) async for _ in one], repr(model.astream(["a", "b"]))]

    with Model.load(smollm2) as model:
        context = model.context()
        context.append("a b")
        messages = [{"role": "user", "content": "x\n" * 500}]
        given: list[object] = [model, model.edit(), context, model.tokenizer, context.next(1)[0]]
        given += [model.stream("a"), model.stream(["a", "b"]), model.chat_prompt(messages), model.trace("a")]
        given += [SamplingOptions(stop=["x" * 1000] * 50, logit_bias=dict.fromkeys(range(1000), 1.0))]
        texts = [*map(repr, given), *asyncio.run(streams())]
    assert [text for text in texts if len(text) > 200 or not text.isprintable() or " object at " in text] == []


@pytest.mark.parametrize("piece", HOSTILE, ids=range(len(HOSTILE)))
def test_reprs_are_one_short_line(piece: str) -> None:
    made = [make(piece, 300) for make in EVERY]
    parts: list[object] = [
        TokenLogprob(1, piece, -0.5, [(7, piece, -0.1)] * 20),
        TIMINGS,
        Piece(piece, list(range(300)), logprobs(piece), "length", TIMINGS, 3),
        Step("top-k 40", np.arange(1000), np.ones(1000) / 1000),
        Push(1, 2, 0.5, [Look(0, Token(1, piece), 0.5)] * 50),
        Operation(1, "linear", 3, "attn_qkv", (("a", 4),), ("b", 5), (("w", "F32", 2, 2),) * 300, 1000, "x" * 300),
    ]
    assert "1 token," in repr(completion(piece, 1))
    parts += catalog.entries()
    for one in (*made, *parts):
        text = repr(one)
        assert len(text) <= 200 and text.isprintable(), type(one)
        assert type(one).__name__ in text
