"""Pages in Chromium and Firefox, offline."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pellucid import Model
from pellucid.core import Core
from pellucid.look import fewer, pages
from pellucid.page.html import joined
from tests.engine.models import Load, ids_for
from tests.families.case import load_golden, write_folder
from tests.families.cases import BY_NAME
from tests.page import browsers
from tests.page.conftest import parse

pytestmark = pytest.mark.page

TEXT = "The capital of France is Paris. The capital of Italy is Rome. The capital of France is"
HOSTILE = [
    b"</script><script>document.title=1</script>", b"<!--", b"\xe2\x80\xa8", b"\xe2\x80\xae", b"\0", b"\xff\xfe",
    b"<b>", b"&lt;", b"{{x}}", b"${x}", b"\xd7\xa9\xd7\x9c\xd7\x95\xd7\x9d", b"\xf0\x9f\x91\xa9", b"\n", b"",
    b"a" * 300, b"\xef\xbb\xbf",
]  # fmt: skip
SHOWN = {
    0: "</script>", 1: "<!--", 2: "⟨2028⟩", 3: "⟨202E⟩", 4: "⟨0000⟩", 5: "⟨ff\u00a0fe⟩", 6: "<b>", 7: "&lt;",
    13: "[13]",
}  # fmt: skip
READY = "document.querySelectorAll('pellucid-strip .token').length"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with browsers.chromium() as found:
        yield found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pages")


@pytest.fixture(scope="module")
def france(smol: Model, folder: Path) -> Path:
    path = folder / "france.html"
    pages.page(smol.core, smol.tokenize(TEXT)).save(path)
    return path


class Opened:
    def __init__(self, browser: Any, path: Path, fragment: str = "", **options: Any) -> None:
        self.context = browser.new_context(offline=True, **{"viewport": {"width": 1400, "height": 900}, **options})
        self.tab = self.context.new_page()
        self.requests: list[str] = []
        self.messages: list[str] = []
        self.tab.on("request", lambda request: self.requests.append(request.url))
        self.tab.on("console", lambda message: self.messages.append(message.text))
        self.tab.on("pageerror", lambda error: self.messages.append(str(error)))
        self.tab.goto(f"file://{path}{fragment}")
        self.tab.wait_for_function(f"() => {READY} > 0")

    def __enter__(self) -> Opened:
        return self

    def __exit__(self, *error: object) -> None:
        self.context.close()

    def all_read(self) -> None:
        """Waits until every block that is not a layer's weights has been read, and every view has been drawn."""
        self.tab.wait_for_function(
            "() => { const data = document.querySelector('pellucid-page')?.pair?.data;"
            "return data && Object.keys(data.source.meta.blocks)"
            ".every((name) => /^(att-\\d|b-)/.test(name) || data.kept.get(name)); }"
        )
        self.tab.wait_for_function(
            "() => [...document.querySelectorAll('pellucid-views section > *')]"
            ".every((view) => !view.seen || view.drew === view.key())"
        )
        self.tab.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")

    def seen(self) -> None:
        """Scrolls through the page, so that every view is built. None reaches out of the window."""
        for selector in ("pellucid-next", "pellucid-tower", "pellucid-head", "pellucid-heads", "pellucid-machine"):
            self.tab.locator(selector).scroll_into_view_if_needed()
            self.tab.wait_for_function(f"() => document.querySelector('{selector} h2') !== null")
        self.all_read()
        assert self.tab.evaluate("document.documentElement.scrollWidth <= innerWidth")

    def data(self, expression: str) -> Any:
        return self.tab.evaluate(
            f"() => {{ const {{ data, state }} = document.querySelector('pellucid-page').pair; return {expression}; }}"
        )


def test_one_request_and_no_message(browser: Any, france: Path) -> None:
    with Opened(browser, france) as opened:
        opened.seen()
        assert opened.requests == [f"file://{france}"] and opened.messages == []
        opened.tab.evaluate(
            "() => { const s = document.createElement('script'); s.textContent = 'window.found = 1';"
            "document.body.append(s); }"
        )
        opened.tab.evaluate(
            "() => { const i = new Image(); i.src = 'https://example.org/x.png'; document.body.append(i); }"
        )
        assert opened.tab.evaluate("() => window.found") is None
        assert "Content Security Policy" in " ".join(opened.messages)


def test_every_block_is_what_was_written(browser: Any, france: Path) -> None:
    expected = parse(france.read_text())
    assert any(kind.endswith(" delta") for kind in expected.meta["blocks"].values())
    digest = """async (name) => {
        const numbers = await document.querySelector('pellucid-page').pair.data.source.block(name);
        return Array.from(new Uint8Array(await crypto.subtle.digest('SHA-256', numbers))); }"""
    with Opened(browser, france) as opened:
        for name, kind in expected.meta["blocks"].items():
            numbers = expected.block(name)
            if kind.startswith("f16"):
                numbers = numbers.astype(np.float32)
            assert bytes(opened.tab.evaluate(digest, name)) == hashlib.sha256(numbers.tobytes()).digest(), (name, kind)


def test_numbers_are_the_file_s(browser: Any, france: Path, smol: Model) -> None:
    expected = parse(france.read_text())
    ids = smol.tokenize(TEXT)
    n = len(ids)
    trace = smol.trace(ids, ("hidden", "attention"))
    with Opened(browser, france) as opened:
        opened.all_read()
        bits = opened.data("Array.from({ length: data.n }, (_, i) => data.surprise(i))")
        scored = [-token.logprob / np.log(2) for token in smol.score(ids).tokens]
        np.testing.assert_allclose(bits[1:], scored, atol=1e-5)
        for layer, head, at in ((0, 0, n - 1), (23, 4, n - 1), (18, 2, 7)):
            opened.tab.evaluate(f"async () => document.querySelector('pellucid-page').pair.data.read('att-{layer}')")
            row = opened.data(f"[...data.row({layer}, {head}, {at})]")
            np.testing.assert_allclose(row, trace.attention[layer, head, at, : at + 1], atol=0.005)
            column = opened.data(f"[...data.column({layer}, {head}, 3)]")
            np.testing.assert_allclose(column, trace.attention[layer, head, 3:, 3], atol=0.005)
            left = opened.data(f"data.left({layer}, {head}, {at})")
            assert abs(sum(row) + left - 1) <= 0.03
            push = opened.data(f"data.headPush({at}, 0, {layer}, {head})")
            found = trace.attribution(at).heads[layer, head]
            assert push == pytest.approx(found, rel=2e-3, abs=5e-3)
        for after in (0, 12, 30):
            guesses = opened.data(f"data.lens({after}, {n - 1}).map((one) => one.id)")
            assert guesses == [guess.id for guess in trace.lens(-1, 3)[after]]
        assert opened.data("data.thumb(23, 4)[0]") == expected.block("thumbs").reshape(30, 9, 24, 24)[23, 4, 0, 0]


def hostile_page(load: Load, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    model = load("llama_gqa")
    monkeypatch.setattr(Core, "piece", lambda self, id, **_: HOSTILE[id % len(HOSTILE)])
    path = folder / "hostile.html"
    pages.page(model.core, list(range(2 * len(HOSTILE)))).save(path)
    return path


def test_hostile_pieces_are_text(browser: Any, folder: Path, load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    path = hostile_page(load, folder, monkeypatch)
    with Opened(browser, path) as opened:
        opened.seen()
        assert opened.messages == [] and opened.tab.title() != "1"
        texts = opened.tab.locator("pellucid-strip .token").all_inner_texts()
        for i, expected in SHOWN.items():
            assert expected in texts[i], (i, texts[i])
        assert opened.tab.locator("pellucid-strip b, pellucid-strip script").count() == 0
        assert opened.tab.evaluate("document.documentElement.scrollWidth <= innerWidth")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 820, 1400])
def test_accessible_and_within_its_width(browser: Any, france: Path, width: int, scheme: str) -> None:
    with Opened(
        browser, france, viewport={"width": width, "height": 900}, color_scheme=scheme, bypass_csp=True
    ) as opened:
        opened.seen()
        assert opened.tab.evaluate("document.documentElement.scrollWidth") <= width
        browsers.picture(opened.tab, f"page-{width}-{scheme}")
        assert browsers.violations(opened.tab) == []


def test_by_keyboard_alone(browser: Any, france: Path) -> None:
    with Opened(browser, france) as opened:
        tab = opened.tab
        for key, step in (("]", 1), ("]", 2), ("[", 1), ("[", 0), ("[", 0)):
            tab.keyboard.press(key)
            assert opened.data("state.now.step") == step
        tab.locator("pellucid-strip .strip").focus()
        tab.keyboard.press("Home")
        tab.wait_for_function("() => document.querySelector('[role=status]')?.textContent.includes('Token 0')")
        tab.keyboard.press("ArrowRight")
        tab.wait_for_function("() => document.querySelector('[role=status]')?.textContent.includes('surprise')")
        active = tab.locator("pellucid-strip .strip").get_attribute("aria-activedescendant")
        tab.wait_for_function("() => document.querySelector('#token-1')?.getAttribute('aria-selected') === 'true'")
        assert active in ("token-0", "token-1")
        tab.locator("canvas.lens").focus()
        layer = opened.data("state.now.layer")
        tab.keyboard.press("ArrowDown")
        assert opened.data("state.now.layer") == layer - 1
        tab.keyboard.press("?")
        tab.wait_for_selector("dl.keys")
        address = tab.evaluate("location.hash")
        assert "at=1" in address and f"layer={layer - 1}" in address


def test_the_tour_by_keyboard_in_forced_colours(browser: Any, france: Path) -> None:
    with Opened(browser, france, forced_colors="active") as opened:
        opened.seen()
        tab = opened.tab
        step, following = tab.locator("pellucid-steps .step"), tab.locator("pellucid-steps button", has_text="Next")
        tab.locator("pellucid-steps select").focus()
        tab.keyboard.press("Home")
        said = []
        for number in range(10):
            tab.wait_for_function(f"() => document.querySelector('pellucid-steps select')?.value === '{number}'")
            said.append(step.inner_text())
            if number < 9:
                following.focus()
                tab.keyboard.press("Enter")
        assert len({*said}) == 10 and all(len(text.split()) > 15 for text in said)
        assert "point nearly the same way" in said[1] and "·is" in said[0]
        assert "(number " in said[1]
        assert following.is_disabled() and opened.messages == []


def test_canvases_as_tables(browser: Any, france: Path) -> None:
    """Each has a table behind it, which is made when it is opened."""
    with Opened(browser, france, "#layer=23&head=4") as opened:
        opened.seen()
        for view, rows, text in (
            ("pellucid-tower", "data.n", "·Paris"),
            ("pellucid-head", "data.n", "4: ·is"),
            ("pellucid-heads", "270", "23.4"),
        ):
            table = opened.tab.locator(f"{view} .as-table")
            assert table.locator("table").count() == 0
            table.locator("summary").press("Enter")
            table.locator("tbody tr").first.wait_for()
            assert table.locator("tbody tr").count() == opened.data(rows)
            assert text in table.locator("tbody").inner_text()
        row = opened.tab.locator("pellucid-head .as-table tbody tr").last.inner_text()
        assert "France" in row and "%" in row
        found = opened.tab.locator("pellucid-tower .as-table tbody tr").last.locator("td").all_inner_texts()
        best = opened.data("data.lens(24, data.n - 1)[0]")
        assert found[0] == opened.data(f"data.shown({best['id']})").replace(" ", "·") and "%" in found[1]
        assert opened.messages == []


def test_heads_that_do_something(browser: Any, france: Path) -> None:
    """Sorted by what they do, and those alone that do it at least half as much as the strongest."""
    with Opened(browser, france, "#sort=induction&least=50") as opened:
        opened.seen()
        found = opened.data("document.querySelector('pellucid-heads').order()")
        scores = [opened.data(f"data.score('induction', {layer}, {head})") for layer, head in found]
        every = opened.data("Array.from({ length: 270 }, (_, i) => data.score('induction', Math.floor(i / 9), i % 9))")
        assert sorted(scores, reverse=True) == scores and 0 < len(scores) < 270
        assert len(scores) == sum(score >= 0.5 * max(every) for score in every)
        assert f"{len(scores)} of 270 are shown" in opened.tab.locator("pellucid-heads").inner_text()
        opened.tab.locator("pellucid-heads select").select_option("place")
        opened.tab.wait_for_function("() => document.querySelector('pellucid-heads canvas')?.height === 9 * 28")


def test_an_address_shows_the_same(browser: Any, france: Path) -> None:
    with Opened(
        browser, france, "#at=3&layer=5&head=2&o.temperature=1.5&o.top_k=7&seed=12&o.samplers=temperature+top_k&x=1"
    ) as opened:
        now = opened.data("state.now")
        assert (now["at"], now["layer"], now["head"], now["seed"]) == (3, 5, 2, "12")
        assert (now["options"]["temperature"], now["options"]["top_k"]) == (1.5, 7)
        assert now["options"]["samplers"] == ["temperature", "top_k"]
        opened.seen()
    with Opened(browser, france, "#at=-5&layer=9999&head=x&o.top_k=a&seed=-1&target=77&shade=%00&sort=y") as opened:
        now = opened.data("state.now")
        assert (now["at"], now["layer"], now["head"], now["target"], now["options"]["top_k"]) == (0, 29, 0, 3, 40)
        opened.seen()
        assert opened.messages == []


def test_a_reader_finds_the_answers(browser: Any, folder: Path, smol: Model) -> None:
    """Which block made " Paris" likely, which head looked where, and what a temperature of 1.5 would draw: each in at
    most three actions."""
    path = folder / "paris.html"
    pages.page(smol.core, smol.tokenize("The capital of France is")).save(path)
    with Opened(browser, path) as opened:
        tab = opened.tab
        opened.seen()
        rows = tab.locator("table.tower tbody tr")
        assert rows.count() == 31 and "Paris" in rows.first.inner_text()
        tab.locator("pellucid-heads select").select_option("push")  # one
        box = tab.locator("canvas.thumbs").bounding_box()
        tab.locator("canvas.thumbs").click(position={"x": 10, "y": 10})  # two: the head that pushes most
        layer, head = opened.data("[state.now.layer, state.now.head]")
        pushes = opened.data(
            "Array.from({ length: 270 }, (_, i) => Math.abs(data.headPush(state.now.at, 0, Math.floor(i / 9), i % 9)))"
        )
        assert box and pushes[9 * layer + head] == max(pushes)
        tab.wait_for_selector("table.looks tbody tr")
        assert "France" in tab.locator("table.looks tbody").inner_text()
        slider = tab.locator("label.slider", has_text="temperature").locator("input").first
        slider.evaluate("(e) => { e.value = '1.5'; e.dispatchEvent(new Event('input', { bubbles: true })); }")
        tab.wait_for_function("() => document.querySelector('ol.chain')?.textContent.includes('temperature 1.5')")
        assert "falls on" in tab.locator(".draw p[aria-live]").inner_text()


def test_canvases_show_the_same_each_time(browser: Any, france: Path) -> None:
    def pixels() -> list[str]:
        with Opened(browser, france, "#layer=23&head=4&whole=1") as opened:
            opened.seen()
            opened.tab.wait_for_function("() => document.querySelector('canvas.map')?.width > 10")
            opened.all_read()
            code = """async () => Promise.all([...document.querySelectorAll('canvas')].map(async (canvas) => {
                const { data } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
                const hash = await crypto.subtle.digest('SHA-256', data);
                return `${new Set(data).size > 4} ${Array.from(new Uint8Array(hash)).join()}`; }))"""
            found: list[str] = opened.tab.evaluate(code)
            return found

    first = pixels()
    assert len(first) == 3 and all(one.startswith("true") for one in first)
    assert pixels() == first


def test_a_model_without_a_part(browser: Any, folder: Path, load: Load) -> None:
    """A layer's attention skipped: it has no map, and says so."""
    model, path = load("llama_gqa"), folder / "skipped.html"
    with model.edit() as edit:
        edit.skip(1, "attention").trace([1, 2, 3, 4], "hidden").html(path)
    with Opened(browser, path, "#layer=1") as opened:
        opened.seen()
        assert "This layer has no attention." in opened.tab.locator("pellucid-head").inner_text()
        assert opened.tab.locator("pellucid-head canvas").count() == 0 and opened.messages == []


@pytest.mark.parametrize("n", [1, 2, 130])
def test_other_models(browser: Any, folder: Path, load: Load, n: int) -> None:
    for name in ("gemma3", "llama_mha_untied"):
        model = load(name)
        path = folder / f"{name}-{n}.html"
        pages.page(model.core, ids_for(model.core.engine, n)).save(path)
        for width in (360, 1400):
            with Opened(browser, path, viewport={"width": width, "height": 900}) as opened:
                opened.seen()
                assert opened.messages == []
                assert opened.tab.locator("pellucid-strip .token").count() == n


def test_a_model_with_experts(browser: Any, tmp_path: Path) -> None:
    case = BY_NAME["qwen3moe"]
    with Model.load(write_folder(case, load_golden(case), tmp_path / "m"), threads=2) as model:
        pages.page(model.core, list(range(3, 40))).save(tmp_path / "page.html")
    with Opened(browser, tmp_path / "page.html") as opened:
        opened.seen()
        assert opened.messages == [] and opened.tab.locator("pellucid-strip .token").count() == 37


@pytest.mark.parametrize("width", [360, 1400])
@pytest.mark.parametrize(
    "text",
    [
        "\U0001f600\U0001f1eb\U0001f1f7\U0001f469\u200d\U0001f680 " * 25,
        "\u05e9\u05dc\u05d5\u05dd \u05e2\u05d5\u05dc\u05dd, \u0645\u0631\u062d\u0628\u0627 \u0628\u0643 1, 2 (abc)",
    ],
    ids=["100 emoji", "right to left"],
)
def test_other_writing(browser: Any, folder: Path, smol: Model, text: str, width: int) -> None:
    ids, path = smol.tokenize(text)[:600], folder / f"writing-{len(text)}.html"
    if not path.exists():
        pages.page(smol.core, ids).save(path)
    with Opened(browser, path, viewport={"width": width, "height": 900}) as opened:
        opened.seen()
        assert opened.messages == [] and opened.tab.locator("pellucid-strip .token").count() == len(ids)
        assert opened.tab.evaluate("document.documentElement.scrollWidth") <= width
        assert {
            *opened.tab.locator("pellucid-strip .token bdi").evaluate_all("(all) => all.map((one) => one.dir)")
        } <= {"auto"}


def test_2048_tokens(browser: Any, folder: Path, load: Load) -> None:
    model, path = load("llama_gqa"), folder / "long.html"
    pages.page(model.core, ids_for(model.core.engine, 2048)).save(path)
    with Opened(browser, path, "#whole=1&at=2047") as opened:
        opened.seen()
        opened.tab.wait_for_selector("table.looks tbody tr")
        assert opened.tab.locator("pellucid-strip .token").count() == 2048
        opened.tab.locator("pellucid-strip .strip").focus()
        opened.tab.keyboard.press("ArrowLeft")
        assert opened.data("state.now.at") == 2046 and opened.messages == []
        assert opened.tab.evaluate("document.documentElement.scrollWidth") <= 1400


def test_a_page_without_room(browser: Any, folder: Path, smol: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was left out is said, and what was kept is in its place."""
    monkeypatch.setattr(fewer, "LADDER", fewer.LADDER[-1:])
    path, ids = folder / "small.html", smol.tokenize("The capital of France is")
    pages.page(smol.core, ids).save(path)
    trace = smol.trace(ids, ())
    with Opened(browser, path, "#target=1&at=2&layer=23&head=4") as opened:
        opened.seen()
        said = opened.tab.locator("body").inner_text()
        assert "also: pushes of heads on the token that follows alone, one neuron of each layer, at most 64" in said
        assert "by \u2013." in said and "NaN" not in said and "undefined" not in said
        assert "the page did not keep" in opened.tab.evaluate(
            "() => { const steps = document.querySelector('pellucid-steps');"
            "return steps.scoring().strings.join('') + steps.scoring().values.join(''); }"
        )
        for at in (2, 4):
            push = trace.attribution(at).heads[23, 4]
            assert opened.data(f"data.headPush({at}, 0, 23, 4)") == pytest.approx(push, rel=2e-3, abs=5e-3)
            assert opened.data(f"data.neurons({at}, 20).length") == 1
        assert opened.messages == []


def test_every_control_is_reached_by_keys(browser: Any, france: Path) -> None:
    """Tab goes through all of them, shows where it is, and leaves the page again."""
    with Opened(browser, france) as opened:
        opened.seen()
        browsers.tab_through(opened.tab)
        slider = opened.tab.locator("label.slider", has_text="temperature").locator("input").first
        slider.focus()
        opened.tab.keyboard.press("ArrowRight")
        opened.tab.wait_for_function(
            "() => document.querySelector('pellucid-page')?.pair?.state.now.options.temperature > 0.8"
        )
        assert opened.messages == []


def test_an_edit_beside_the_model(browser: Any, folder: Path, smol: Model) -> None:
    path = folder / "edited.html"
    ids = smol.tokenize("The capital of France is")
    with smol.edit() as edit:
        edit.trace(edit.scale_head(23, 4, 0).core.prompt(ids), "hidden", layers=0).html(path, against=smol.trace(ids))
    with Opened(browser, path) as opened:
        opened.seen()
        compared = opened.tab.locator("pellucid-compare")
        compared.scroll_into_view_if_needed()
        opened.tab.wait_for_selector("pellucid-compare table tbody tr")
        row = (
            compared.locator("table").first.locator("tbody tr", has_text="Paris").first.locator("td").all_inner_texts()
        )
        here, there = (float(text.split()[0]) for text in row)
        assert here < there - 20  # without the head, " Paris" is less likely
        assert opened.messages == []


def test_a_page_of_another_version(browser: Any, folder: Path, france: Path) -> None:
    path = folder / "later.html"
    path.write_text(france.read_text().replace('"pellucid_page": 2', '"pellucid_page": 3'))
    context = browser.new_context(offline=True)
    tab = context.new_page()
    tab.goto(f"file://{path}")
    assert "version 3" in tab.locator("[role=alert]").inner_text()
    context.close()


def test_the_joined_program_is_a_module(browser: Any) -> None:
    """Also those modules that no page imports yet."""
    context = browser.new_context(offline=True)
    tab = context.new_page()
    errors: list[str] = []
    tab.on("pageerror", lambda error: errors.append(str(error)))
    tab.add_script_tag(content=f"{joined('sampler.js')}\nglobalThis.made = typeof sample;", type="module")
    tab.wait_for_function("() => globalThis.made === 'function'")
    assert errors == []
    context.close()
