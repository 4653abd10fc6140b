"""The texts of the page and the app stand in its tables alone, and each is used."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pellucid.page import html
from tests.page.javascript import Literal, literals

STATIC = Path(html.__file__).parent / "static"
TABLES = {"strings.js": ("tourstrings.js", "strings.js"), "appstrings.js": ("appstrings.js",)}
MODULES = sorted(p.name for p in STATIC.glob("*.js") if p.name not in {n for names in TABLES.values() for n in names})
ENTRY = re.compile(r"^  (\w+): (?=[\"{])", re.M)
WRITES = ("say", "parts")
# Words, where a literal may be put on the screen as it is.
LETTERS = re.compile(r"[^\W\d_]{2}")
# A sentence or a label, in any literal: words with a space between them, or one with a capital.
PROSE = re.compile(r"[^\W\d_]{2,}[,;:.…]? [^\W\d_]{2,}|^[A-Z][a-z]+\b(?!-)|[a-z]{2}[.…]$")
# What looks so and is none: keys of the keyboard, names in the browser's storage, in styles and in headers.
NAMES = {"Enter", "Home", "End", "pellucid key", "pellucid conversations", "Bearer \0", "form textarea",
         "noopener noreferrer nofollow"}  # fmt: skip
STYLES = re.compile(r"^(color-mix\(|[.#])")  # and selectors
SHOWS = {"", "?", ":", "||", "??", "&&", "+", "=>", "return"}


def names(table: str) -> list[str]:
    return [name for file in TABLES[table] for name in ENTRY.findall((STATIC / file).read_text("utf-8"))]


def english(text: str) -> list[str]:
    """What a module says besides the tables, with its line."""
    found = []
    for one in literals(text):
        for part in one.shown.texts:
            if LETTERS.search(part):
                found.append(f"{one.line}: {part.strip()}")
        for value in one.shown.values:
            named = {*value.calls} & {*WRITES}
            if not value.tag and not named and value.before in SHOWS and LETTERS.search(value.text):
                found.append(f"{value.line}: {value.text}")
        if not one.tag and PROSE.search(one.text) and one.text not in NAMES and not STYLES.match(one.text):
            found.append(f"{one.line}: {one.text}")
    return found


@pytest.mark.parametrize("name", MODULES)
def test_no_module_has_texts_of_its_own(name: str) -> None:
    assert english((STATIC / name).read_text("utf-8")) == []


@pytest.mark.parametrize(
    "planted",
    [
        "html`<p>Some text</p>`",
        "html`<p>${x}: of ${y}</p>`",
        'html`<button title="Do it">${x}</button>`',
        'html`<button aria-label="move ${x}">${x}</button>`',
        "html`<input placeholder=Name>`",
        'html`<p>${on ? "on" : ""}</p>`',
        'html`<p>${name || "none"}</p>`',
        "html`<p>${on ? `layer ${x}` : nothing}</p>`",
        "html`<p title=${on ? `layer ${x}` : nothing}></p>`",
        "html`<ul>${all.map((one) => html`<li>${one} left</li>`)}</ul>`",
        "svg`<text>Cache</text>`",
        'throw new Error("The server is gone.")',
        'const label = "Layers";',
        'this.say("it is not there")',
        "const said = `Token ${now.at}`;",
        "const said = `${n} tokens through ${model}`;",
        'const tip = more ? "Reading…" : x;',
    ],
)
def test_such_texts_are_found(planted: str) -> None:
    assert english(f"// A module.\nexport function draw(x, y) {{\n  return {planted};\n}}\n"
                   if planted.startswith(("html", "svg")) else f"{planted}\n")  # fmt: skip


def test_what_is_no_text_is_not_found() -> None:
    module = r"""
// "A comment" says: it's not code
/** @param {"a b"} x */
const EXPRESSION = /"[^"/]* Some text/u; const ratio = a / b / c;
export const draw = (x) => html`<p class="quiet two" @click=${() => this.go({ step: "one" })} .style=${`width:${x}px`}>
  ${say(x ? "first" : "second", { name: x })} ${data.push("att-push", x)}
  ${parts("third", { token: html`<b>${x}</b>` })}
  ${x === "place" ? say("first") : nothing} e<sup>${x}</sup></p>`;
"""
    assert english(module) == []


def used(text: str) -> set[str]:
    """Names that a module may ask a table for: those of calls, and parts of the module's constants."""
    found = set()
    for one in literals(text):
        asked = one.inside in [f"{name}(" for name in WRITES] and one.before in ("(", "?", ":")
        if asked or (one.constant.isupper() and one.constant):
            found.add(one.text)
    return found


def asked(one: Literal) -> bool:
    return one.inside in [f"{name}(" for name in WRITES] and one.before in ("(", "?", ":")


@pytest.mark.parametrize("table", TABLES)
def test_every_text_is_used(table: str) -> None:
    every = set().union(*(used((STATIC / name).read_text("utf-8")) for name in MODULES))
    assert [name for name in names(table) if name not in every] == []


def test_every_text_that_is_used_is_there() -> None:
    views, app = {*names("strings.js")}, {*names("appstrings.js")}
    assert len(views) > 200 and len(app) > 80 and not views & app
    assert len(views) == len(names("strings.js")) and len(app) == len(names("appstrings.js"))
    for name in MODULES:
        text = (STATIC / name).read_text("utf-8")
        there = views | app if "./appstrings.js" in text else views
        wanted = [one.text for one in literals(text) if asked(one)]
        assert [one for one in wanted if one not in there] == [], name
        assert bool(wanted) <= ("strings.js" in text), name


def test_the_page_has_no_texts_of_the_app() -> None:
    program = html.joined(html.ENTRY)
    assert "stripShade" in program and "step10" in program and "chatEmpty" not in program


def test_tables_are_short() -> None:
    for files in TABLES.values():
        for name in files:
            assert (STATIC / name).read_text("utf-8").count("\n") <= 300, name
