"""What single views show of a page, in Chromium: where their boxes are, and what is read of them aloud."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pellucid import Model
from pellucid.look import pages
from tests.engine.models import Load
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
def test_nothing_lies_on_another(browser: Any, france: Path, width: int, tmp_path: Path) -> None:
    with Opened(browser, france, "#step=4", viewport={"width": width, "height": 900}) as opened:
        opened.seen()
        opened.tab.screenshot(path=tmp_path / f"page-{width}.png", full_page=True)
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
            opened.tab.wait_for_function(f"() => document.querySelector('pellucid-page').pair.state.now.at === {at}")
            own = smol.core.piece(ids[at]).hex(" ")
            opened.tab.wait_for_function(
                "(bytes) => document.querySelector('pellucid-steps .step').textContent.includes(`the bytes ${bytes}.`)",
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
        opened.tab.wait_for_function("() => document.querySelector('pellucid-page').pair.state.now.head === 4")
    model, path = load("llama_mha_untied"), folder / "own.html"
    pages.page(model.core, [1, 2, 3]).save(path)
    with Opened(browser, path, "#step=4") as opened:
        opened.seen()
        assert opened.tab.locator("pellucid-steps .group").count() == 0
        assert opened.tab.locator("pellucid-steps .groups button").count() == model.info().heads


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
