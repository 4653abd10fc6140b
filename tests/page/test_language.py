"""With a mark around every text of the tables, nothing that a reader sees stands outside the marks but tokens, numbers
and the library's names."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pellucid.core import Core
from pellucid.look import fewer, pages
from pellucid.page import html
from tests.engine.models import Load
from tests.page.test_app import address
from tests.page.test_browser import Opened, browser

__all__ = ["address", "browser"]  # fixtures

pytestmark = pytest.mark.page

OWN = "return found.map((part, i) => (i % 2 ? values[part] : part));"
# Words outside the marks, of the document's texts and of attributes that are read. `data`: places that show what the
# model or the reader wrote; `names`: the library's names.
OUTSIDE = r"""([data, names]) => {
  const found = [];
  const bare = (text, depth) => {
    let out = "";
    for (const one of text) {
      if (one === "\u27e6") depth++;
      else if (one === "\u27e7") depth--;
      else if (depth === 0) out += one;
    }
    return [out, depth];
  };
  const check = (text, where) => {
    const words = text.replace(/[\w-]+/g, (word) => (names.includes(word) ? "" : word));
    if (/\p{L}{2}/u.test(words)) found.push(`${where}: ${text.trim().slice(0, 80)}`);
  };
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  let depth = 0;
  while (walker.nextNode()) {
    const { currentNode: node } = walker;
    if (node.parentElement.closest(`script, style, noscript, ${data}`)) continue;
    const [text, then] = bare(node.data, depth);
    depth = then;
    check(text, node.parentElement.closest("section, nav, header, div")?.className ?? "");
  }
  for (const one of document.querySelectorAll("[title], [aria-label], [placeholder], [alt]")) {
    if (one.closest(data)) continue;
    for (const name of ["title", "aria-label", "placeholder", "alt"]) {
      check(bare(one.getAttribute(name) ?? "", 0)[0], name);
    }
  }
  return [found, depth, document.body.textContent.split("\u27e6").length]; }"""
NAMES = ["model", "penalties", "dry", "top-n-sigma", "top-k", "top_k", "typical-p", "top-p", "min-p", "xtc", "greedy",
         "temperature", "mirostat", "bias"]  # fmt: skip


def marked() -> str:
    """say.js with marks around what it gives."""
    text = html.static("say.js")
    assert text.count(OWN) == 1
    return text.replace(OWN, OWN.replace("return ", 'return ["\\u27e6", ...').replace(";", ', "\\u27e7"];'))


def outside(tab: Any, data: str) -> None:
    found, depth, marks = tab.evaluate(OUTSIDE, [data, NAMES])
    assert "\n".join(found) == ""
    assert depth == 0 and marks > 20


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Pages made with the marks."""
    own, other = html.static, marked()
    monkeypatch.setattr(html, "static", lambda name: other if name == "say.js" else own(name))
    html.program.cache_clear()
    yield
    html.program.cache_clear()


PAGE = "h1, pellucid-machine tbody td, bdi"


@pytest.mark.usefixtures("program")
def test_a_page(browser: Any, load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every view, every step, what was left out, and a comparison."""
    model = load("llama_gqa")
    monkeypatch.setattr(Core, "piece", lambda self, id, **_: b"%d" % id)
    ids = list(range(3, 20))
    pages.page(model.core, ids).save(tmp_path / "page.html")
    with model.edit() as edit:
        edit.add(0, [1.0] * 64).trace(ids, "hidden").html(tmp_path / "edited.html", against=model.trace(ids))
    monkeypatch.setattr(fewer, "LADDER", fewer.LADDER[-1:])
    pages.page(model.core, ids).save(tmp_path / "small.html")
    for name, at in (("page", "#at=16&first=1"), ("page", "#at=5&sort=induction"), ("edited", ""), ("small", "#at=3")):
        with Opened(browser, tmp_path / f"{name}.html", at) as opened:
            opened.seen()
            tab = opened.tab
            if name == "edited":
                tab.locator("pellucid-compare").scroll_into_view_if_needed()
                tab.wait_for_selector("pellucid-compare table tbody tr")
            tab.keyboard.press("?")
            tab.wait_for_selector("dl.keys")
            tab.evaluate("() => { for (const one of document.querySelectorAll('details')) one.open = true; }")
            for step in range(10):
                outside(tab, PAGE)
                if step < 9:
                    tab.keyboard.press("]")
                    tab.wait_for_function(
                        f"() => document.querySelector('pellucid-steps select')?.value === '{step + 1}'"
                    )
            assert opened.messages == []


APP = "h1, bdi, .cumulated, td.guess, textarea, .said, .python, .kept, pre, option, pellucid-machine tbody td"


def test_the_app(browser: Any, address: str) -> None:
    context = browser.new_context(viewport={"width": 1300, "height": 900})
    tab = context.new_page()
    tab.set_default_timeout(240_000)
    tab.route("**/ui/say.js", lambda route: route.fulfill(body=marked(), content_type="text/javascript"))
    tab.goto(address)
    tab.wait_for_selector(".ask button:not([disabled])")
    outside(tab, APP)
    tab.locator("nav details summary").click()
    area = tab.get_by_label("Tools (JSON)")
    for wrong in ("{", "3", ""):
        area.fill(wrong)
        area.press("Tab")
        assert tab.locator("pellucid-options .warn").count() == bool(wrong)
        if wrong == "3":
            outside(tab, APP + ", pellucid-options .warn")
    most = tab.get_by_label("Tokens at most")
    most.fill("3")
    most.press("Tab")
    tab.get_by_label("Your message").fill("1 2")
    tab.keyboard.press("Enter")
    tab.wait_for_selector(".message p.quiet button:not([disabled])")
    outside(tab, APP)
    tab.get_by_role("button", name="Tokens").click()
    tab.locator(".message .token").first.click()
    tab.wait_for_selector("pellucid-views pellucid-strip .token")
    for part in ("pellucid-tower", "pellucid-head", "pellucid-heads", "pellucid-machine"):
        tab.locator(part).scroll_into_view_if_needed()
        tab.wait_for_selector(f"{part} h2")
    outside(tab, APP)
    tab.get_by_role("button", name="Playground").click()
    tab.wait_for_selector("pellucid-playground .candidates tbody tr")
    tab.get_by_role("button", name="Draw", exact=False).last.click()
    tab.wait_for_selector("pellucid-playground .answer button")
    outside(tab, APP)
    tab.get_by_role("button", name="Edits").click()
    tab.wait_for_selector(".edited tbody tr")
    for kind in ("head", "skip", "direction", "patch"):
        tab.get_by_label("Kind").select_option(kind)
        if kind == "patch":
            for name in ("Token here", "Token there"):
                tab.locator("pellucid-edits form").get_by_label(name).fill("1")
        outside(tab, APP)
        tab.locator(".adds button[type=submit]").click()
    tab.wait_for_selector(".changes li:nth-child(4)")
    outside(tab, APP + ", .changes label")  # which hold the reader's own texts
    context.close()
