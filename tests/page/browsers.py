"""Browsers for tests: Debian's Chromium by playwright, Debian's Firefox by WebDriver BiDi. Neither is downloaded."""

from __future__ import annotations

import itertools
import json
import os
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

CHROMIUM, FIREFOX = "/usr/bin/chromium", "/usr/bin/firefox-esr"
SCREENSHOTS = "PELLUCID_SCREENSHOTS"  # the folder that keeps pictures of what tests open; without it none are taken
RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]


@contextmanager
def chromium() -> Iterator[Any]:
    """playwright's Browser."""
    if not Path(CHROMIUM).exists():
        pytest.fail(f"{CHROMIUM} is missing: apt install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        try:
            yield browser
        finally:
            browser.close()


def picture(tab: Any, name: str) -> None:
    """Keeps a picture of the whole page, to be looked at, where a folder is named for them."""
    if folder := os.environ.get(SCREENSHOTS):
        tab.screenshot(path=Path(folder) / f"{name}.png", full_page=True)  # which makes the folder


def violations(tab: Any, part: str | None = None) -> list[Any]:
    """What axe finds wrong for readers with disabilities, in what a selector names or everywhere."""
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(tab, part, options={"runOnly": {"type": "tag", "values": RULES}})
    return [
        (one["id"], [(node["html"][:200], node["failureSummary"]) for node in one["nodes"][:3]])
        for one in found.response["violations"]
    ]


CONTROLS = """() => { const all = document.querySelectorAll(
    'button, input, select, textarea, summary, a[href], [tabindex="0"]');
    return [...all].filter((one) => one.checkVisibility() && !one.disabled && one.tabIndex >= 0)
        .map((one, i) => { one.dataset.control = String(i); return one.outerHTML.slice(0, 150); }); }"""
FOCUSED = """() => { const one = document.activeElement, style = getComputedStyle(one);
    return one === document.body ? null : [one.dataset.control ?? '', one.outerHTML.slice(0, 150),
        style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) > 0]; }"""

# Tab goes on from what had the focus last, also after blur(): something before all else takes it, and is removed.
FROM_THE_START = """() => { const first = document.createElement('span'); first.tabIndex = -1;
    document.body.prepend(first); first.focus(); first.remove(); scrollTo(0, 0); }"""


def tab_through(tab: Any) -> None:
    """Asserts that the Tab key reaches every control that can be seen, shows which has the focus, and goes on."""
    tab.evaluate(FROM_THE_START)
    controls = tab.evaluate(CONTROLS)
    assert controls
    reached: set[int] = set()
    for _ in range(2 * len(controls) + 20):
        tab.keyboard.press("Tab")
        found = tab.evaluate(FOCUSED)
        if found is None:
            if reached:
                break
            continue
        number, element, shown = found
        assert shown, f"no outline: {element}"
        if number and int(number) in reached:
            break
        if number:
            reached.add(int(number))
    left = [controls[i] for i in range(len(controls)) if i not in reached]
    assert left == [], "\n".join(left)


class Firefox:
    """A tab of Firefox. errors: what it logged as a warning or an error; requests: the addresses it asked for."""

    def __init__(self, socket: Any) -> None:
        self._socket, self._numbers = socket, itertools.count(1)
        self.errors: list[str] = []
        self.requests: list[str] = []
        self._ask("session.new", {"capabilities": {}})
        self._ask("session.subscribe", {"events": ["log.entryAdded", "network.beforeRequestSent"]})
        self._tab = self._ask("browsingContext.create", {"type": "tab"})["context"]

    def _ask(self, method: str, params: dict[str, Any]) -> Any:
        number = next(self._numbers)
        self._socket.send(json.dumps({"id": number, "method": method, "params": params}))
        while True:
            said = json.loads(self._socket.recv(timeout=60))
            if said.get("method") == "network.beforeRequestSent":
                self.requests.append(said["params"]["request"]["url"])
            if said.get("method") == "log.entryAdded" and said["params"]["level"] in ("warn", "error"):
                frames = (said["params"].get("stackTrace") or {}).get("callFrames") or [{}]
                self.errors.append(f"{said['params']['text']} {frames[0].get('url', '')}:{frames[0].get('lineNumber')}")
            if said.get("id") == number:
                assert said["type"] == "success", said
                return said["result"]

    def open(self, address: str) -> None:
        self._ask("browsingContext.navigate", {"context": self._tab, "url": address, "wait": "complete"})

    def evaluate(self, expression: str) -> Any:
        """The value of an expression, which may be a promise, as JSON."""
        params = {"expression": f"Promise.resolve({expression}).then(JSON.stringify)", "target": {"context": self._tab},
                  "awaitPromise": True}  # fmt: skip
        found = self._ask("script.evaluate", params)
        assert found["type"] == "success", found
        return json.loads(found["result"]["value"]) if found["result"]["type"] == "string" else None


@contextmanager
def firefox(profile: Path) -> Iterator[Firefox]:
    if not Path(FIREFOX).exists():
        pytest.fail(f"{FIREFOX} is missing: apt install firefox-esr")
    from websockets.sync.client import connect

    (profile / "user.js").write_text(
        'user_pref("datareporting.policy.dataSubmissionEnabled", false);\n'
        'user_pref("network.manage-offline-status", false);\n'
    )
    command = [FIREFOX, "--headless", "--no-remote", "--remote-debugging-port=0", "--profile", str(profile)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as process:
        try:
            assert process.stderr is not None
            address = next(m[1] for line in process.stderr if (m := re.search(r"BiDi listening on (ws://\S+)", line)))
            with connect(f"{address}/session", max_size=1 << 26) as socket:
                yield Firefox(socket)
        finally:
            process.kill()
