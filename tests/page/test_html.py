"""The file: one program, one style, data that cannot become markup."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pellucid.page import html
from tests.page.conftest import parse

ROOT = Path(__file__).resolve().parents[2]
HOSTILE = [
    "</script>",
    "<!--<script>",
    "]]>",
    "\u2028",
    "\u202e",
    "\0",
    "\ud7ff\ufffe",
    '"\\',
    "@@SCRIPT@@",
    "&lt;",
    "\x7f",
]


class Reader(HTMLParser):
    """Elements in order, with attributes and text."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.inside = False
        self.found: list[tuple[str, dict[str, str | None], list[str]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs), []))
        self.inside = True

    def handle_endtag(self, tag: str) -> None:
        self.inside = False

    def handle_data(self, data: str) -> None:
        if self.inside:
            self.found[-1][2].append(data)


def read(text: str) -> list[tuple[str, dict[str, str | None], str]]:
    reader = Reader()
    reader.feed(text)
    reader.close()
    return [(tag, attributes, "".join(parts)) for tag, attributes, parts in reader.found]


def make(**meta: Any) -> str:
    return html.page({"title": "a title", **meta}, {"numbers": np.arange(5, dtype=np.uint8)}, {"more": ("u8", "AAAA")})


def test_the_program_is_joined_from_modules() -> None:
    text = html.joined(html.ENTRY)
    assert "import " not in re.sub(r"import\(", "", text.split("\n")[0])
    assert not re.search(r"^(import|export) ", text, re.M)
    assert text.count("class Strip extends View") == 1 and text.index("class View ") < text.index("class Strip ")
    assert "</script" not in text.lower() and "@@" not in html.program().style


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"a.js": 'import { x as y } from "./b.js";\n', "b.js": "export const x = 1;\n"}, "under another name"),
        (
            {"a.js": 'import { x } from "./b.js";\nconst one = 1;\n', "b.js": "const one = 2;\nexport const x = 1;\n"},
            "one is also",
        ),
        ({"a.js": 'import "./b.js";\n', "b.js": 'import "./a.js";\n'}, "imports itself"),
        ({"a.js": "export default 1;\n"}, "script's end"),
        ({"a.js": 'const x = "</script>";\n'}, "script's end"),
        ({"a.js": 'import x from "./b.js";\n', "b.js": ""}, "script's end"),
        ({"a.js": "class One {}\nasync function One() {}\n", "b.js": ""}, None),
    ],
)
def test_modules_that_cannot_be_joined(
    files: dict[str, str], message: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(html, "static", files.__getitem__)
    if message is None:
        assert html.joined("a.js")
        return
    with pytest.raises(ValueError, match=message):
        html.joined("a.js")


def test_the_policy_allows_this_script_and_this_style_alone() -> None:
    elements = read(make())
    (policy,) = (
        a["content"] for t, a, _ in elements if t == "meta" and a.get("http-equiv") == "Content-Security-Policy"
    )
    (script,) = (text for t, a, text in elements if t == "script" and a.get("type") == "module")
    (style,) = (text for t, _, text in elements if t == "style")
    rules = dict(rule.strip().split(" ", 1) for rule in str(policy).split(";"))
    for name, text in (("script-src", script), ("style-src", style)):
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert rules[name] == f"'sha256-{digest}'"
    assert rules["default-src"] == rules["base-uri"] == rules["form-action"] == "'none'"


def test_nothing_is_fetched() -> None:
    for tag, attributes, text in read(make()):
        assert not {"src", "href", "srcset", "style", "action"} & {*attributes} and not any(
            n.startswith("on") for n in attributes
        )
        if tag == "style":
            assert "url(" not in text and "@import" not in text
    script = html.program().script
    assert not re.search(r"\bfetch\(|XMLHttpRequest|WebSocket|sendBeacon|\beval\(|new Function", script)


@pytest.mark.parametrize("piece", HOSTILE, ids=ascii)
def test_hostile_text_stays_text(piece: str) -> None:
    text = make(title=f"x{piece}y", pieces=[piece])
    text.encode()
    plain, hostile = read(make(pieces=["x"])), read(text)
    assert [(t, set(a)) for t, a, _ in hostile] == [(t, set(a)) for t, a, _ in plain]
    assert parse(text).meta["pieces"] == [piece] and parse(text).meta["title"] == f"x{piece}y"
    (title,) = (t for tag, _, t in hostile if tag == "title")
    assert title.isprintable() and title.startswith("x") and title.endswith("y")
    data = re.search(r'id="meta">(.*?)</script>', text, re.S)
    assert data and data[1].isascii() and "<" not in data[1]
    assert all(c.isprintable() for c in data[1])


def test_meta_and_blocks() -> None:
    found = parse(make())
    assert found.meta["pellucid_page"] == 2 and found.meta["blocks"] == {"numbers": "u8", "more": "u8"}
    assert found.block("numbers").tolist() == [0, 1, 2, 3, 4]
    with pytest.raises(ValueError):
        make(n=float("nan"))
    assert make() == make()


def test_vendored_files_are_what_notice_says() -> None:
    notice = html.static("vendor/NOTICE")
    vendor = Path(__file__).resolve().parents[2] / "src/pellucid/page/static/vendor"
    for name in ("lit.js", "markdown.js"):
        digest = hashlib.sha256(html.static(f"vendor/{name}").encode()).hexdigest()
        assert f"{name}: sha256 {digest}" in notice
    pinned = json.loads((vendor / "package.json").read_text())["devDependencies"]
    locked = json.loads((vendor / "package-lock.json").read_text())["packages"]
    for name in ("lit", "marked", "dompurify"):
        assert locked[f"node_modules/{name}"]["version"] == pinned[name] and locked[f"node_modules/{name}"]["integrity"]
        assert f"{name} {pinned[name]}" in notice


def test_steps_name_chapters_that_there_are() -> None:
    chapters = dict(re.findall(r'^  (chapter\d+): "(.*)",$', html.static("tourstrings.js"), re.M))
    listed = re.search(r"const CHAPTERS = .*?\(\[(.*?)\]\)", html.static("steps.js"), re.S)
    headings = re.findall(r"^## (.*)$", (ROOT / "docs/looking-inside.md").read_text(encoding="utf-8"), re.M)
    assert listed
    named = [chapters[name] for name in re.findall(r'"(\w+)"', listed[1])]
    assert len(named) == 10 and {*named} <= {*headings}


def test_the_example_has_the_program_of_now() -> None:
    """`python docs/page_example.py` writes it."""
    text = (ROOT / "docs/look/page.html").read_text(encoding="utf-8")
    assert html.joined(html.ENTRY).strip() in text and html.static("app.css").strip() in text
