"""Writes look/page.html, the example of page.md, and look/page.png, a picture of it: python docs/page_example.py. Needs
Debian's Chromium and the extra `page-test`."""

from __future__ import annotations

from pathlib import Path

from playwright.sync_api import sync_playwright

from pellucid import Model

LOOK = Path(__file__).resolve().parent / "look"
TEXT = "The capital of France is"


def main() -> None:
    with Model.load("smollm2-135m", precision="high", kv="f32") as model:
        model.trace(TEXT, "hidden", layers=-1).html(LOOK / "page.html")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        tab = browser.new_page(viewport={"width": 1500, "height": 1000}, color_scheme="light")
        tab.goto(f"file://{LOOK / 'page.html'}#layer=23&head=4&step=3")
        tab.wait_for_selector("table.looks tbody tr")
        tab.wait_for_timeout(1000)
        tab.screenshot(path=LOOK / "page.png")
        browser.close()


if __name__ == "__main__":
    main()
