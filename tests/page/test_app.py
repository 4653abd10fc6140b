"""The app of `pellucid serve --ui`, in Chromium."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.page import browsers

pytestmark = pytest.mark.page


def start(port: str = "0") -> tuple[subprocess.Popen[str], str]:
    command = [sys.executable, "-m", "pellucid", "serve", "--ui", "--port", port, "--context", "1024"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert process.stdout is not None
    address = next(line.split()[-1] for line in process.stdout if line.startswith("the app:"))
    return process, address


@pytest.fixture(scope="module")
def address(smollm2: Path) -> Iterator[str]:
    process, found = start()
    yield found
    process.terminate()
    process.wait(30)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with browsers.chromium() as found:
        yield found


@pytest.fixture
def tab(browser: Any, address: str) -> Iterator[Any]:
    context = browser.new_context(viewport={"width": 1300, "height": 900})
    page = context.new_page()
    page.messages = []
    page.on("console", lambda message: page.messages.append(message.text))
    page.on("pageerror", lambda error: page.messages.append(str(error)))
    page.asked = []
    page.on("request", lambda request: page.asked.append(request.url))
    page.goto(address)
    page.wait_for_selector(".ask button:not([disabled])")
    yield page
    context.close()


def say(tab: Any, text: str, answers: int = 1) -> None:
    tab.get_by_label("Your message").fill(text)
    tab.keyboard.press("Enter")
    tab.wait_for_function(
        f"() => document.querySelectorAll('pellucid-message .message:not(.own)').length === {answers}"
        " && document.querySelector('.ask button').textContent === 'Send'",
        timeout=60000,
    )


def set_options(tab: Any, **values: Any) -> None:
    tab.locator("nav details summary").click()
    tab.get_by_label("Tokens at most").fill(str(values.get("most", 12)))
    tab.get_by_label("Tokens at most").press("Tab")
    tab.get_by_label("Seed").fill("3")
    tab.get_by_label("Seed").press("Tab")


def test_a_conversation_and_the_look_inside(tab: Any, address: str) -> None:
    set_options(tab)
    say(tab, "What is the capital of France?")
    assert len(tab.locator(".message:not(.own) .said").inner_text()) > 4
    tab.get_by_role("button", name="Tokens").click()
    assert tab.locator(".message .token").count() >= 4
    tab.locator(".message .token").nth(1).click()
    tab.wait_for_selector("pellucid-views pellucid-strip .token", timeout=60000)
    tab.locator("pellucid-tower").scroll_into_view_if_needed()
    tab.wait_for_selector("table.tower tbody tr")
    assert tab.locator("table.tower tbody tr").count() == 31
    pair = "document.querySelector('pellucid-views').page"
    assert tab.evaluate(f"{pair}.state.now.at") == tab.evaluate(f"{pair}.data.meta.prompt")
    tab.locator("pellucid-head").scroll_into_view_if_needed()
    tab.wait_for_selector("table.looks tbody tr")
    assert tab.messages == []
    assert all(url.startswith(address) or url.startswith("data:") for url in tab.asked)


def test_branches_and_what_is_kept(tab: Any) -> None:
    set_options(tab)
    say(tab, "Name a colour.")
    tab.get_by_role("button", name="Try again").click()
    tab.wait_for_function("() => document.body.innerText.includes('2 of 2')")
    tab.wait_for_function("() => document.querySelector('.ask button').textContent === 'Send'")
    tab.get_by_role("button", name="The branch before").click()
    tab.wait_for_function("() => document.body.innerText.includes('1 of 2')")
    tab.get_by_role("button", name="Edit").click()
    tab.get_by_label("The message").fill("Name an animal.")
    tab.locator(".message form button[type=submit]").click()
    tab.wait_for_function("() => document.body.innerText.includes('Name an animal.')")
    tab.wait_for_function("() => document.querySelector('.ask button').textContent === 'Send'")
    with tab.expect_download() as download:
        tab.get_by_role("button", name="Export").click()
    exported = Path(download.value.path()).read_text()
    tab.reload()
    tab.wait_for_selector(".kept li")
    tab.locator(".kept li button.plain").first.click()
    tab.wait_for_function("() => document.body.innerText.includes('Name an animal.')")
    path = Path(download.value.path()).with_suffix(".json")
    path.write_text(exported)
    tab.locator("input[type=file]").set_input_files(path)
    tab.wait_for_function("() => document.querySelectorAll('.kept li').length === 2")
    path.write_text("{}")
    tab.locator("input[type=file]").set_input_files(path)
    tab.wait_for_function("() => document.querySelector('[role=alert]')?.textContent.includes('no conversations')")


def test_what_models_write_is_only_text(tab: Any) -> None:
    """Scripts, images from elsewhere, forms and styles of an answer do nothing."""
    hostile = (
        "# T\n<script>window.bad=1</script><img src=x onerror='window.bad=1'><svg onload='window.bad=1'></svg>\n\n"
        "[a](javascript:window.bad=1) [b](https://example.org) ![i](https://example.org/i.png)\n\n"
        "<form action=https://example.org><input></form><p style='position:fixed'>p</p><iframe src=https://x></iframe>\n\n"
        "`code` **bold** <a href='data:text/html,x'>d</a>"
    )
    tab.evaluate(
        """(text) => { const app = document.querySelector('pellucid-app'); const id = 'x';
        const rest = { ids: [], bits: [], pieces: [], finish: null };
        app.all.messages[id] = { id, parent: null, role: 'assistant', text, ...rest };
        app.all.leaf = id; app.requestUpdate(); }""",
        hostile,
    )
    tab.wait_for_selector(".said strong")
    assert tab.evaluate("window.bad") is None
    said = tab.locator(".said")
    for tag in ("script", "img", "svg", "form", "input", "iframe", "[style]", "[onerror]"):
        assert said.locator(tag).count() == 0, tag
    links = said.locator("a[href]").evaluate_all("(all) => all.map((a) => [a.href, a.rel, a.target])")
    assert links == [["https://example.org/", "noopener noreferrer nofollow", "_blank"]]
    assert not any("example.org" in url for url in tab.asked)


def test_accessible(tab: Any) -> None:
    from axe_playwright_python.sync_playwright import Axe

    set_options(tab)
    say(tab, "Hello.")
    rules = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]
    for width in (1300, 360):
        tab.set_viewport_size({"width": width, "height": 900})
        tab.wait_for_timeout(100)
        assert tab.evaluate("document.documentElement.scrollWidth <= innerWidth")
        found = Axe().run(tab, options={"runOnly": {"type": "tag", "values": rules}})
        violations = [(v["id"], [n["html"][:200] for n in v["nodes"][:3]]) for v in found.response["violations"]]
        assert violations == []


def test_a_server_that_goes_and_comes_back(browser: Any, smollm2: Path) -> None:
    process, address = start()
    port = address.rstrip("/").rpartition(":")[2]
    context = browser.new_context()
    tab = context.new_page()
    try:
        tab.goto(address)
        tab.wait_for_selector(".ask button:not([disabled])")
        process.kill()
        process.wait(30)
        tab.get_by_label("Your message").fill("Hello?")
        tab.keyboard.press("Enter")
        tab.wait_for_function("() => document.querySelector('[role=alert]')?.textContent.includes('cannot be reached')")
        process, _ = start(port)
        tab.wait_for_function(
            "() => document.querySelector('[role=alert]')?.textContent.includes('back')", timeout=30000
        )
    finally:
        context.close()
        process.kill()
        process.wait(30)
