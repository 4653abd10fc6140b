"""Pages in Firefox, from a file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pellucid import Model
from tests.engine.models import Load
from tests.page import browsers
from tests.page.test_browser import READY, SHOWN, TEXT, folder, france, hostile_page

__all__ = ["folder", "france"]  # fixtures

pytestmark = pytest.mark.page

INJECT = """new Promise((done) => {
    addEventListener('securitypolicyviolation', (event) => done([window.found ?? 'nothing', event.effectiveDirective]));
    const s = document.createElement('script'); s.textContent = 'window.found = 1'; document.body.append(s); })"""


def test_firefox(france: Path, smol: Model, tmp_path: Path) -> None:
    ids = smol.tokenize(TEXT)
    with browsers.firefox(tmp_path) as firefox:
        firefox.open(f"file://{france}#layer=23&head=4")
        code = """new Promise((done, failed) => { const end = Date.now() + 20000; const look = () => {
            const table = document.querySelector('pellucid-head table.looks');
            if (table?.querySelector('tbody tr')) done(table.innerText);
            else if (Date.now() > end) failed(new Error(document.body.innerText.slice(0, 500)));
            else { document.querySelector('pellucid-head')?.scrollIntoView(); setTimeout(look, 50); } }; look(); })"""
        assert "France" in firefox.evaluate(code)
        assert firefox.evaluate(READY) == len(ids)
        bits = firefox.evaluate(
            "Array.from({ length: 9 }, (_, i) => document.querySelector('pellucid-page').pair.data.surprise(i + 1))"
        )
        np.testing.assert_allclose(bits, [-t.logprob / np.log(2) for t in smol.score(ids).tokens[:9]], atol=1e-5)
        assert firefox.errors == []
        assert firefox.evaluate(INJECT) == ["nothing", "script-src-elem"]
        firefox.evaluate("fetch('http://127.0.0.1:54321/fetched').catch(() => 1)")
        assert [url for url in firefox.requests if not url.startswith("data:")] == []
        path = tmp_path / "without-a-policy.html"
        path.write_text("<img src='http://127.0.0.1:54321/image.png' alt=''>")
        firefox.open(f"file://{path}")
        assert "http://127.0.0.1:54321/image.png" in firefox.requests  # such a request would be seen


def test_hostile_pieces_in_firefox(folder: Path, tmp_path: Path, load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    path = hostile_page(load, folder, monkeypatch)
    with browsers.firefox(tmp_path) as firefox:
        firefox.open(f"file://{path}")
        found = firefox.evaluate(
            "new Promise((done) => { const look = () => {"
            " const all = document.querySelectorAll('pellucid-strip .token');"
            " if (all.length) done([...all].map((one) => one.innerText)); else setTimeout(look, 50); }; look(); })"
        )
        assert all(text in found[i] for i, text in SHOWN.items())
        assert firefox.evaluate("document.title") != "1" and firefox.errors == []
