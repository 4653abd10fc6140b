"""The app of `pellucid serve --ui`, in Chromium; a conversation also in Firefox."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.page import browsers

pytestmark = pytest.mark.page

TIMEOUT = 240_000  # milliseconds: of a model on a machine that does other things, too
ENDLESS = '{"type": "array", "minItems": 900}'  # a schema whose answer is cut off, however late that is


def start(port: str = "0", *options: str, **env: str) -> tuple[subprocess.Popen[str], str]:
    command = [sys.executable, "-m", "pellucid", "serve", "--ui", "--port", port, "--context", "1024", *options]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env={**os.environ, **env}
    )
    assert process.stdout is not None
    address = next(line.split()[-1] for line in process.stdout if line.startswith("the app:"))
    return process, address


@pytest.fixture(scope="module")
def address(smollm2: Path) -> Iterator[str]:
    process, found = start("0", "--precision", "high", "--kv", "f32")
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
    yield opened(context, address)
    context.close()


def opened(context: Any, address: str) -> Any:
    page = context.new_page()
    page.set_default_timeout(TIMEOUT)
    page.messages = []
    page.on("console", lambda message: page.messages.append(message.text))
    page.on("pageerror", lambda error: page.messages.append(str(error)))
    page.asked = []
    page.on("request", lambda request: page.asked.append(request.url))
    page.goto(address)
    page.wait_for_selector(".ask button:not([disabled])")
    return page


def say(tab: Any, text: str, answers: int = 1) -> None:
    tab.get_by_label("Your message").fill(text)
    tab.keyboard.press("Enter")
    tab.wait_for_function(
        f"() => document.querySelectorAll('pellucid-message .message:not(.own)').length === {answers}"
        " && document.querySelector('.ask button')?.textContent === 'Send'",
    )


def set_options(tab: Any, **values: Any) -> None:
    if values.get("open", True):
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
    tab.wait_for_function("() => document.querySelector('.talk')?.textContent.includes('2 of 2')")
    tab.wait_for_function("() => document.querySelector('.ask button')?.textContent === 'Send'")
    tab.get_by_role("button", name="The branch before").click()
    tab.wait_for_function("() => document.querySelector('.talk')?.textContent.includes('1 of 2')")
    tab.get_by_role("button", name="Edit", exact=True).click()
    tab.get_by_label("The message").fill("Name an animal.")
    tab.locator(".message form button[type=submit]").click()
    tab.wait_for_function("() => document.querySelector('.talk')?.textContent.includes('Name an animal.')")
    tab.wait_for_function("() => document.querySelector('.ask button')?.textContent === 'Send'")
    with tab.expect_download() as download:
        tab.get_by_role("button", name="Export").click()
    exported = Path(download.value.path()).read_text()
    tab.reload()
    tab.wait_for_selector(".kept li")
    tab.locator(".kept li button.plain").first.click()
    tab.wait_for_function("() => document.querySelector('.talk')?.textContent.includes('Name an animal.')")
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
        """(text) => { const app = document.querySelector('pellucid-chat'); const id = 'x';
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
    set_options(tab)
    say(tab, "Hello.")
    for part, ready in (("Chat", ".message"), ("Playground", ".candidates"), ("Edits", ".edited")):
        tab.get_by_role("button", name=part, exact=True).click()
        tab.wait_for_selector(f"main > :not([hidden]) {ready}")
        for width, scheme in ((1300, "light"), (360, "dark")):
            tab.set_viewport_size({"width": width, "height": 900})
            tab.emulate_media(color_scheme=scheme)
            tab.wait_for_timeout(100)
            assert tab.evaluate("document.documentElement.scrollWidth <= innerWidth"), part
            browsers.picture(tab, f"app-{part.lower()}-{width}-{scheme}")
            assert browsers.violations(tab) == [], part


def test_every_control_is_reached_by_keys(tab: Any) -> None:
    """Of the three parts, with an answer that is looked into. No mouse is used."""
    set_options(tab, most=4)
    say(tab, "Hello.")
    tab.get_by_role("button", name="Tokens").press("Enter")
    tab.locator(".message .token").first.press("Enter")
    tab.wait_for_selector("pellucid-views pellucid-strip .token")
    for part, ready in (("Chat", ".message"), ("Playground", ".candidates"), ("Edits", "pellucid-strip .token")):
        tab.get_by_role("button", name=part, exact=True).press("Enter")
        tab.wait_for_selector(f"main > :not([hidden]) {ready}")
        for view in tab.locator("main > :not([hidden]) pellucid-views > *").all():
            view.scroll_into_view_if_needed()
        tab.wait_for_timeout(300)
        browsers.tab_through(tab)
    assert tab.messages == []


def test_firefox(address: str, tmp_path: Path) -> None:
    """A conversation by the form's own controls, kept over a reload; the look inside, the playground and edits."""
    wait = """new Promise((done, failed) => { const end = Date.now() + 50000; const look = () => {
        const found = (() => { %s })();
        if (found) done(found); else if (Date.now() > end) failed(new Error(document.body.innerText.slice(0, 500)));
        else setTimeout(look, 50); }; look(); })"""
    with browsers.firefox(tmp_path) as firefox:

        def until(expression: str) -> Any:
            return firefox.evaluate(wait % f"return {expression};")

        def press(name: str, where: str = "") -> None:
            found = (
                f"[...document.querySelectorAll('{where} button')].find((one) => one.textContent.trim() === '{name}')"
            )
            until(f"{found} && !{found}.disabled")
            firefox.evaluate(f"({found}.click(), 1)")

        firefox.open(address)
        until("document.querySelector('.ask button:not([disabled])') !== null")
        firefox.evaluate(
            "(() => { const label = [...document.querySelectorAll('nav label')]"
            ".find((one) => one.textContent.includes('Schema of answers'));"
            f" const shape = label.querySelector('textarea'); shape.value = '{ENDLESS}';"
            " shape.dispatchEvent(new Event('change', { bubbles: true }));"
            " const text = document.querySelector('.ask textarea'); text.value = 'Hi';"
            " text.dispatchEvent(new Event('input', { bubbles: true }));"
            " document.querySelector('.ask button').click(); return 1; })()"
        )
        until("document.querySelector('.message:not(.own) .said')?.textContent.length > 10")
        press("Stop")
        until("document.querySelector('.ask button').textContent === 'Send'")
        said = firefox.evaluate("document.querySelector('.message:not(.own) .said').textContent.trim()")
        press("Look inside")
        until("document.querySelectorAll('pellucid-views pellucid-strip .token').length > 10")
        firefox.evaluate("(document.querySelector('pellucid-tower').scrollIntoView(), 1)")
        assert until("document.querySelectorAll('table.tower tbody tr').length") == 31
        firefox.evaluate("(document.querySelector('pellucid-head').scrollIntoView(), 1)")
        until("document.querySelector('table.looks tbody tr') !== null")
        firefox.open(address)
        until("document.querySelectorAll('.kept li').length === 1")
        firefox.evaluate("(document.querySelector('.kept li button').click(), 1)")
        assert until("document.querySelector('.message:not(.own) .said')?.textContent.trim()") == said
        press("Playground")
        until("document.querySelector('pellucid-playground .candidates tbody tr') !== null")
        press("Draw", "pellucid-playground")
        until(
            "document.querySelectorAll('pellucid-playground .answer').length === 4"
            " && !document.querySelector('pellucid-playground .caret')"
        )
        press("Edits")
        until("document.querySelector('.edited tbody tr') !== null && document.querySelector('.adds') !== null")
        press("Add", ".adds")
        until("document.querySelector('.edited tbody td:nth-child(3)').textContent.includes('%')")
        assert "edit.scale_head(29, 0, 0)" in firefox.evaluate("document.querySelector('.python').innerText")
        assert firefox.errors == []


def test_a_server_that_goes_and_comes_back(browser: Any, smollm2: Path) -> None:
    """Two tabs of one server, which is killed: one while it writes, one while it rests. Both say so, and go on."""
    process, address = start()
    port = address.rstrip("/").rpartition(":")[2]
    context = browser.new_context()
    tabs = [opened(context, address) for _ in range(2)]
    told = "(text) => document.querySelector('[role=alert]')?.textContent.includes(text)"
    try:
        set_options(tabs[0], most=900)
        tabs[0].get_by_label("Schema of answers (JSON)").fill(ENDLESS)
        tabs[0].get_by_label("Schema of answers (JSON)").press("Tab")
        for tab in tabs:
            tab.get_by_label("Your message").fill("Tell me a long story.")
        tabs[0].keyboard.press("Enter")
        tabs[0].get_by_label("Your message").press("Enter")
        tabs[0].wait_for_function("() => document.querySelector('.message:not(.own) .said')?.textContent.length > 40")
        process.kill()
        process.wait(30)
        for tab in tabs:
            tab.wait_for_function(told, arg="cannot be reached")
        text = tabs[0].locator(".message:not(.own) .said").inner_text()
        process, _ = start(port)
        for tab in tabs:
            tab.wait_for_function(told, arg="back")
        assert tabs[0].locator(".message:not(.own) .said").inner_text() == text  # what came stays
        set_options(tabs[0], most=4, open=False)
        tabs[0].get_by_role("button", name="Go on", exact=True).click()
        tabs[0].wait_for_function(
            "(text) => { const said = document.querySelector('.message:not(.own) .said')?.textContent;"
            " const talk = document.querySelector('.talk')?.textContent;"
            " return said?.startsWith(text.slice(0, 20)) && talk?.includes('2 of 2'); }",
            arg=text,
        )
        say(tabs[1], "Hello?")
        tabs[1].wait_for_selector(".kept li:nth-child(2)")  # the list has those of both tabs
        tabs[0].wait_for_selector(".kept li:nth-child(2)")
    finally:
        context.close()
        process.kill()
        process.wait(30)


def test_a_key(browser: Any, smollm2: Path) -> None:
    process, address = start(PELLUCID_API_KEY="sk-a")
    context = browser.new_context()
    try:
        tab = context.new_page()
        tab.set_default_timeout(TIMEOUT)
        tab.goto(address)
        alert, field = tab.get_by_role("alert"), tab.get_by_label("Key", exact=True)
        for key, said in (
            ("", "no API key"),
            ("sk-b", "a wrong API key"),
            ("clé", "ASCII"),
            ("sk-\U0001f511", "no space"),
        ):
            if key:
                field.fill(key)
                field.press("Tab")
            alert.filter(has_text=said).wait_for()
        field.fill(" sk-a ")
        field.press("Tab")
        tab.wait_for_selector(".ask button:not([disabled])")
        assert not alert.count()
    finally:
        context.close()
        process.kill()
        process.wait(30)


def test_a_block_that_does_not_come(tab: Any) -> None:
    """The view says so in its place, beside what has come. A control that the keyboard reaches asks for it again, and
    so does another token."""
    set_options(tab, most=4)
    say(tab, "Hello.")
    refused = {"lens-ids": 2, "thumbs": 1}  # so often

    def answer(route: Any) -> None:
        name = route.request.post_data_json["name"]
        if refused.get(name, 0):
            refused[name] -= 1
            route.abort()
        else:
            route.continue_()

    tab.route("**/v1/look/*/block", answer)
    tab.get_by_role("button", name="Look inside").click()
    tower, heads = tab.locator("pellucid-views pellucid-tower"), tab.locator("pellucid-views pellucid-heads")
    tower.scroll_into_view_if_needed()
    alert = tower.locator("[role=alert]")
    alert.wait_for()
    assert "has not come: The server cannot be reached." in alert.inner_text()
    assert tower.locator("tbody tr").count() == 31 and tower.locator("td.guess").count() == 0
    browsers.tab_through(tab)
    button = alert.get_by_role("button", name="Try again")
    with tab.expect_event("requestfailed"):
        button.press("Enter")
    assert refused["lens-ids"] == 0
    button.press("Enter")
    tower.locator("td.guess").first.wait_for()
    assert alert.count() == 0 and tab.evaluate("document.activeElement.tagName") == "PELLUCID-TOWER"
    heads.scroll_into_view_if_needed()
    heads.locator("canvas").wait_for()
    assert refused["thumbs"] == 0 and heads.locator("[role=alert]").count() == 0  # one control asks for all
    refused["att-12"] = 1
    layer = heads.get_by_role("spinbutton", name="Layer")
    layer.fill("12")
    layer.press("Tab")
    head = tab.locator("pellucid-views pellucid-head [role=alert]")
    head.wait_for()
    tab.locator("pellucid-views pellucid-strip .strip").press("ArrowLeft")
    head.wait_for(state="detached")
    assert not any("Uncaught" in message for message in tab.messages), tab.messages


@pytest.mark.parametrize(("part", "ready"), [("Playground", ".candidates"), ("Edits", ".edited")])
def test_a_text_that_was_not_computed(tab: Any, part: str, ready: str) -> None:
    """What the first views need did not come: the same text is asked for again by a control."""
    asked: list[str] = []

    def answer(route: Any) -> None:
        asked.append(route.request.url)
        if len(asked) == 1:
            route.fulfill(status=503, json={"error": {"message": "later, please"}})
        else:
            route.continue_()

    tab.route("**/v1/look", answer)
    tab.get_by_role("button", name=part, exact=True).click()
    here = tab.locator("main > :not([hidden])")
    button = here.get_by_role("button", name="Try again")
    button.wait_for()
    assert "later, please" in tab.locator("header [role=alert]").inner_text()
    button.press("Enter")
    here.locator(f"{ready} tbody tr").first.wait_for()
    assert button.count() == 0 and tab.locator("header [role=alert]").count() == 0
