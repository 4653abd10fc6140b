"""Pictures of pages and of the app, which CI keeps to be looked at."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.page import browsers

ROOT = Path(__file__).resolve().parents[2]


class Tab:
    def __init__(self) -> None:
        self.kept: list[Any] = []

    def screenshot(self, path: Path, full_page: bool) -> None:
        self.kept.append((path, full_page))


def test_pictures_are_kept_where_a_folder_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    tab = Tab()
    monkeypatch.delenv(browsers.SCREENSHOTS, raising=False)
    browsers.picture(tab, "page")
    assert tab.kept == []
    monkeypatch.setenv(browsers.SCREENSHOTS, str(tmp_path))
    browsers.picture(tab, "page")
    assert tab.kept == [(tmp_path / "page.png", True)]


def test_ci_names_a_folder_and_uploads_it() -> None:
    script = (ROOT / ".ci/run").read_text()
    assert f"{browsers.SCREENSHOTS}=$root/screenshots pytest -q --page -m page tests/page\n" in script
    workflow = (ROOT / ".github/workflows/ci.yml").read_text()
    upload = workflow.partition("actions/upload-artifact")[2]
    assert "path: screenshots\n" in upload and "if-no-files-found: error\n" in upload
    tests = "".join(path.read_text() for path in (ROOT / "tests/page").glob("test_*.py"))
    assert all(f'browsers.picture({tab}, f"{what}-' in tests for tab, what in (("opened.tab", "page"), ("tab", "app")))
