"""What single views show of a page, in Chromium: where their boxes are, and what is read of them aloud."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from pellucid import Model
from pellucid.look import pages
from tests.engine.models import Load
from tests.page import browsers
from tests.page.test_browser import Opened, browser, folder, france

__all__ = ["browser", "folder", "france"]  # fixtures

pytestmark = pytest.mark.page

# Boxes that lie on one another, or reach out of their section: but for what holds the other, what scrolls, and the
# cells of heads, which share their borders.
OVERLAPS = """() => {
  const found = [];
  const name = (one) => `${one.closest('section')?.getAttribute('aria-label')}: ${one.outerHTML.slice(0, 60)}`;
  const clear = (all) => {
    const boxes = all.map((one) => ({ one, box: one.getBoundingClientRect() })).filter(({ box }) => box.width);
    for (let i = 0; i < boxes.length; i++) {
      for (let k = i + 1; k < boxes.length; k++) {
        const [a, b] = [boxes[i], boxes[k]];
        if (a.one.contains(b.one) || b.one.contains(a.one)) continue;
        const wide = Math.min(a.box.right, b.box.right) - Math.max(a.box.left, b.box.left);
        const high = Math.min(a.box.bottom, b.box.bottom) - Math.max(a.box.top, b.box.top);
        if (wide > 1 && high > 1) found.push(`${name(a.one)} and ${name(b.one)}`);
      }
    }
  };
  const sections = [...document.querySelectorAll('pellucid-views section')];
  clear(sections);
  for (const section of sections) {
    const edge = section.getBoundingClientRect();
    const all = 'button:not(.cell), select, input, output, summary, h2, h3, p, canvas, meter';
    const own = [...section.querySelectorAll(all)]
      .filter((one) => one.checkVisibility() && !one.closest('.strip, .scroll, figure'));
    clear(own);
    for (const one of own) {
      const box = one.getBoundingClientRect();
      if (box.left < edge.left - 1 || box.right > edge.right + 1) found.push(`${name(one)} reaches out`);
    }
  }
  return found; }"""


@pytest.mark.parametrize("width", [360, 820, 1400])
def test_nothing_lies_on_another(browser: Any, france: Path, width: int) -> None:
    with Opened(browser, france, "#step=4", viewport={"width": width, "height": 900}) as opened:
        opened.seen()
        assert opened.tab.evaluate(OVERLAPS) == []
        assert opened.tab.evaluate("document.documentElement.scrollWidth") <= width
        planted = "() => { document.querySelector('pellucid-steps .row').style.marginBottom = '-3rem'; }"
        opened.tab.evaluate(planted)
        assert opened.tab.evaluate(OVERLAPS) != []


def test_what_is_read_of_the_steps(browser: Any, france: Path) -> None:
    from playwright.sync_api import expect

    with Opened(browser, france, "#step=1&layer=23&head=4") as opened:
        opened.seen()
        expect(opened.tab.locator("section.made")).to_match_aria_snapshot(
            """
            - heading /How the token after ·is is made/ [level=2]
            - button "Back"
            - text: Step
            - combobox "Step":
              - option "1. Text and tokens"
              - option "2. Embedding" [selected]
              - option "3. Stack of layers"
            - button "Next"
            - heading "Embedding" [level=3]
            - paragraph: /Its number picks a row of a table/
            - paragraph: /The rows that point nearly the same way/
            """
        )
        expect(opened.tab.locator("pellucid-head")).to_match_aria_snapshot(
            """
            - heading "Layer 23, head 4" [level=2]
            - paragraph: /A token sees all before it/
            - checkbox "leave out the first token"
            - checkbox "all tokens"
            - figure:
              - img /Weights of tokens 0 to \\d+/
            - group: As a table
            - table /Token \\d+, ·is, looks at/:
              - rowgroup:
                - row "token weight":
                  - columnheader "token"
                  - columnheader "weight"
              - rowgroup:
                - row /France/
            - group: By hand
            """
        )


def test_the_bytes_of_a_part_of_a_character(browser: Any, folder: Path, smol: Model) -> None:
    ids, path = smol.tokenize("\U0001f469"), folder / "woman.html"
    pages.page(smol.core, ids).save(path)
    assert len(ids) > 1
    with Opened(browser, path, "#at=0") as opened:
        for at in range(len(ids)):
            opened.tab.wait_for_function(f"() => document.querySelector('pellucid-page')?.pair?.state.now.at === {at}")
            own = smol.core.piece(ids[at]).hex(" ")
            opened.tab.wait_for_function(
                "(own) => document.querySelector('pellucid-steps .step')?.textContent.includes(`the bytes ${own}.`)",
                arg=own,
            )
            opened.tab.locator("pellucid-strip .strip").press("ArrowRight")


def test_heads_that_share_keys_and_values_stand_together(browser: Any, france: Path, folder: Path, load: Load) -> None:
    """SmolLM2 has three groups of three heads; where each head has its own, none is framed."""
    with Opened(browser, france, "#step=4&layer=23") as opened:
        opened.seen()
        groups = opened.tab.locator("pellucid-steps .group")
        heads = [[text.split(":")[0] for text in one.locator("button").all_inner_texts()] for one in groups.all()]
        assert heads == [["0", "1", "2"], ["3", "4", "5"], ["6", "7", "8"]]
        groups.nth(1).locator("button").nth(1).press("Enter")
        opened.tab.wait_for_function("() => document.querySelector('pellucid-page')?.pair?.state.now.head === 4")
    model, path = load("llama_mha_untied"), folder / "own.html"
    pages.page(model.core, [1, 2, 3]).save(path)
    with Opened(browser, path, "#step=4") as opened:
        opened.seen()
        assert opened.tab.locator("pellucid-steps .group").count() == 0
        assert opened.tab.locator("pellucid-steps .groups button").count() == model.info().heads


# Cells by what is in them: their numbers -> [background, its forced-color-adjust].
COLOURED = """([selector, number]) => [...document.querySelectorAll(selector)].map((one) => {
    const style = getComputedStyle(one);
    return [number === 'title' ? one.title : one.innerText, style.backgroundImage, style.forcedColorAdjust]; })"""


@pytest.fixture(scope="module")
def signs(smol: Model, folder: Path) -> Path:
    """A model without a part, beside the whole one; " Rome" is next in both by far, so that its pushes are compared."""
    ids, path = smol.tokenize("The capital of France is Paris. The capital of Italy is"), folder / "signs.html"
    with smol.edit() as edit:
        edit.skip(12, "mlp").trace(ids, "hidden", layers=0).html(path, against=smol.trace(ids))
    return path


def test_signs_are_told_without_colours(browser: Any, signs: Path) -> None:
    """What is below zero is hatched, also where the reader has chosen the colours."""
    with Opened(browser, signs, "#step=1&layer=23&head=4", forced_colors="active") as opened:
        opened.seen()
        opened.tab.locator("pellucid-compare").scroll_into_view_if_needed()
        opened.tab.wait_for_selector("pellucid-compare table tbody tr")
        opened.tab.locator("pellucid-head details.hand summary").press("Enter")
        opened.tab.wait_for_selector("pellucid-steps .numbers i")
        for selector, number in (
            ("pellucid-tower button.cell", "title"),
            ("pellucid-tower td.push", "text"),
            ("pellucid-steps .numbers i", "title"),
            ("pellucid-head .numbers i", "title"),
            ("pellucid-compare .token", "title"),
            ("pellucid-compare td.push", "text"),
        ):
            found = opened.tab.evaluate(COLOURED, [selector, number])
            told = [re.findall(r"(?:^|\s)([+\u2212])[\d.]+", text) for text, _, _ in found]  # of 0.00: none
            assert ["+"] in told and ["\u2212"] in told, selector
            for (text, image, adjust), sign in zip(found, told, strict=True):
                assert not sign or ("repeating-linear-gradient" in image) == (sign == ["\u2212"]), (selector, text)
                assert adjust == "none", selector
        browsers.picture(opened.tab, "compared-forced-colours")
        assert opened.messages == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_view_is_accessible(browser: Any, signs: Path, scheme: str) -> None:
    """With a comparison, all that can be unfolded, and each step in turn."""
    options: Any = {"color_scheme": scheme, "bypass_csp": True}
    with Opened(browser, signs, "#layer=23&head=4&sort=push&least=20", **options) as opened:
        opened.seen()
        opened.tab.locator("pellucid-compare").scroll_into_view_if_needed()
        opened.tab.wait_for_selector("pellucid-compare table tbody tr")
        opened.tab.keyboard.press("?")
        opened.tab.wait_for_selector("dl.keys")
        opened.tab.evaluate("() => { for (const one of document.querySelectorAll('details')) one.open = true; }")
        opened.tab.wait_for_function("() => document.querySelectorAll('.as-table table').length === 3")
        assert browsers.violations(opened.tab) == []
        browsers.picture(opened.tab, f"compared-{scheme}")
        for step in range(1, 10):
            opened.tab.keyboard.press("]")
            opened.tab.wait_for_function(
                f"() => document.querySelector('pellucid-steps select')?.value === '{step}'"
                " && document.querySelector('pellucid-steps .step')?.innerText.length > 80"
            )
            assert browsers.violations(opened.tab, "pellucid-steps") == [], step
        assert opened.tab.evaluate("document.documentElement.scrollWidth") <= 1400


def test_groups_of_the_cache_are_told_without_colours(browser: Any, folder: Path, load: Load) -> None:
    model, path = load("gemma3"), folder / "groups.html"
    pages.page(model.core, list(range(3, 30))).save(path)
    with Opened(browser, path) as opened:
        opened.seen()
        edges = "(all) => all.map((one) => getComputedStyle(one).strokeDasharray)"
        drawn = opened.tab.locator("pellucid-machine .growth polygon").evaluate_all(edges)
        assert len(drawn) == 2 and drawn[0] == "none" != drawn[1]
        borders = "(all) => all.map((one) => getComputedStyle(one).borderTopStyle)"
        assert opened.tab.locator("pellucid-machine .swatch").evaluate_all(borders) == ["solid", "dashed"]


def test_every_option_of_the_steps_has_a_slider(browser: Any, france: Path) -> None:
    """Of all nine: those that switch a step off or on, and what they depend on."""
    with Opened(browser, france) as opened:
        opened.seen()
        sliders = opened.tab.locator("pellucid-next label.slider input")
        set_to = "(one, value) => { one.value = value; one.dispatchEvent(new Event('input', { bubbles: true })); }"
        start = opened.data("state.start.options")
        same = {*start}
        for end in ("min", "max"):
            for slider in sliders.all():
                slider.evaluate(set_to, slider.get_attribute(end))
            now = opened.data("state.now.options")
            same &= {name for name, value in start.items() if now[name] == value}
        # mirostat takes the place of the steps; breakers are texts
        assert same <= {"samplers", "dry_breakers", "mirostat", "mirostat_tau", "mirostat_eta"}, same
        assert opened.messages == []
