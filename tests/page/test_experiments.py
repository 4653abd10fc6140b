"""The app's playground and edits, tools, and long conversations, in Chromium."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from pellucid import Model
from tests.page import long
from tests.page.test_app import address, browser, say, set_options, tab

__all__ = ["address", "browser", "tab"]  # fixtures

pytestmark = pytest.mark.page
TEXT = "The capital of France is"


@pytest.fixture(scope="module")
def exact(smollm2: Path) -> Any:
    """The model that the app's server has."""
    with Model.load(smollm2, threads=2, precision="high", kv="f32", context=1024) as model:
        yield model


def rows(tab: Any, table: str) -> dict[str, list[str]]:
    """A table's cells, by the token of the row."""
    script = (
        "(all) => all.map((row) => [...row.cells].map((cell) => (cell.querySelector('bdi') ?? cell).innerText.trim()))"
    )
    return {first: rest for first, *rest in tab.locator(f"{table} tbody tr").evaluate_all(script)}


def slide(tab: Any, name: str, value: float) -> None:
    slider = tab.locator("pellucid-playground label.slider", has_text=name).locator("input").first
    slider.evaluate("(one, value) => { one.value = value; one.dispatchEvent(new Event('input')); }", str(value))


def has_drawn(tab: Any, wanted: list[str]) -> None:
    """Waits for continuations, one below each seed, to be these."""
    tab.wait_for_function(
        "(wanted) => { const all = [...document.querySelectorAll('pellucid-playground .answer')];"
        " const text = (one) => [...one.querySelectorAll('.token')].map((token) => token.textContent).join('');"
        " return JSON.stringify(all.map(text)) === JSON.stringify(wanted); }",
        arg=wanted,
    )


def test_playground(tab: Any, exact: Model) -> None:
    """Continuations are those of `generate` with the sliders' options and seeds; a slider draws them again."""
    tab.get_by_role("button", name="Playground").click()
    tab.wait_for_selector("pellucid-playground .candidates tbody tr")
    assert rows(tab, "pellucid-playground .candidates")["·Paris"][0] == "77 %"
    most = tab.locator("pellucid-playground").get_by_label("Tokens at most")
    most.fill("5")
    most.press("Tab")
    tab.get_by_role("button", name="Draw", exact=True).click()

    def expected(**options: Any) -> list[str]:
        texts = [exact.generate(TEXT, max_tokens=5, seed=seed, **options).text for seed in range(4)]
        return [text.replace(" ", "·").replace("\n", "↵") for text in texts]

    has_drawn(tab, expected())
    slide(tab, "temperature", 1.5)
    slide(tab, "min-p", 0)
    has_drawn(tab, expected(temperature=1.5, min_p=0.0))
    box = tab.locator("pellucid-playground").get_by_label("The text")
    box.fill("Once upon a")
    tab.wait_for_function(
        "() => document.querySelector('pellucid-playground .candidates')?.textContent.includes('time')"
    )
    assert tab.locator("pellucid-playground .slider", has_text="min-p").locator("output").text_content() == "0"
    tab.get_by_role("button", name="Go on with ·time").click()
    tab.wait_for_function("() => document.querySelector('pellucid-playground textarea')?.value === 'Once upon a time'")
    assert tab.messages == []


def test_what_candidates_do_not_decide_the_engine_does(tab: Any, exact: Model) -> None:
    """Where the stored candidates do not reach, the app shows the engine's own steps and draw."""
    tab.get_by_role("button", name="Playground").click()
    tab.locator("pellucid-playground").get_by_label("The text").fill("I")
    tab.wait_for_function(
        "() => document.querySelector('pellucid-playground [role=status]')?.textContent === '1 token.'"
    )
    for name, value in (("top-k", 0), ("top-p", 1), ("min-p", 0)):
        slide(tab, name, value)
    hot = re.compile('"temperature":2,')
    with tab.expect_response(lambda one: one.url.endswith("/steps") and hot.search(one.request.post_data)) as asked:
        slide(tab, "temperature", 2)
    tab.wait_for_function("() => !document.querySelector('pellucid-next .warn')")
    own = exact.generate("I", max_tokens=1, seed=0, temperature=2.0, top_k=0, top_p=1.0, min_p=0.0, ignore_eos=True)
    assert asked.value.json()["drawn"]["id"] == own.ids[0]
    piece = exact.detokenize(own.ids).replace(" ", "·")
    assert tab.locator("pellucid-next .draw strong").inner_text() == piece


def test_edits(tab: Any) -> None:
    """Taking out one head, chosen by a click in the layers, changes the next token as docs/looking-inside.md says."""
    tab.get_by_role("button", name="Edits").click()
    tab.wait_for_selector(".edited tbody tr")
    assert rows(tab, ".edited")["·Paris"] == ["77 %", ""]
    tab.locator("pellucid-edits pellucid-tower").scroll_into_view_if_needed()
    tab.locator("pellucid-edits button.cell[aria-label^='layer 23, head 4:']").click()
    tab.get_by_role("button", name="Add", exact=True).click()
    done = "() => document.querySelector('.edited tbody td:nth-child(3)').textContent.includes('%')"
    tab.wait_for_function(done)
    assert rows(tab, ".edited")["·Paris"] == ["77 %", "14 %"]
    assert "edit.scale_head(23, 4, 0)" in tab.locator(".python").inner_text()
    tab.locator("pellucid-compare").scroll_into_view_if_needed()
    tab.wait_for_selector("pellucid-compare table")
    tab.wait_for_function("() => !document.querySelector('pellucid-edits .answer .caret')")
    assert tab.locator("pellucid-edits .answer h3").all_inner_texts() == ["The model as it is", "With the edits"]
    tab.get_by_role("checkbox", name="Head 23.4 times 0").uncheck()
    tab.wait_for_function(done.replace("textContent.includes('%')", "textContent === ''"))
    assert "scale_head" not in tab.locator(".python").inner_text()
    tab.get_by_label("Kind").select_option("direction")
    tab.get_by_role("button", name="Add", exact=True).click()
    tab.wait_for_function("() => document.querySelector('.python')?.textContent.includes('to - away')")
    tab.get_by_label("Kind").select_option("patch")
    form = tab.locator("pellucid-edits form")
    form.get_by_label("Layer").select_option("4")
    for name in ("Token here", "Token there"):
        form.get_by_label(name).fill("3")
    tab.get_by_role("button", name="Add", exact=True).click()
    tab.wait_for_function("() => document.querySelector('.python')?.textContent.includes('edit.patch(4, 3, other)')")
    tab.wait_for_function(done)
    assert tab.messages == []


def test_going_on_from_a_token(tab: Any, exact: Model) -> None:
    """Another token in an answer's place begins a branch, which goes on from the ids."""
    set_options(tab, most=8)
    question = "What is the capital of France?"
    say(tab, question)
    tab.get_by_role("button", name="Look inside").click()
    button = tab.locator("pellucid-views .candidates tbody tr:nth-child(2) button[aria-label^='Go on']")
    button.click()
    tab.wait_for_function("() => document.querySelector('.talk')?.textContent.includes('2 of 2')")
    tab.wait_for_function("() => document.querySelector('.ask button')?.textContent === 'Send'")
    chat = "document.querySelector('pellucid-chat').all"
    made = tab.evaluate(f"{chat}.messages[{chat}.leaf]")
    prompt = exact.chat_prompt([{"role": "user", "content": question}]).ids
    first = made["ids"][:1]
    own = exact.generate(prompt + first, max_tokens=8, seed=3)
    assert made["ids"] == first + own.ids and made["text"] == exact.detokenize(first) + own.text


def test_schema_and_tools(tab: Any) -> None:
    set_options(tab, most=60)
    schema = {"type": "object", "properties": {"city": {"type": "string", "maxLength": 12}}, "required": ["city"]}
    area = tab.get_by_label("Schema of answers")
    area.fill("{")
    area.press("Tab")
    assert "no JSON" in tab.locator("pellucid-options .warn").inner_text()
    area.fill(json.dumps({**schema, "additionalProperties": False}))
    area.press("Tab")
    say(tab, "Where is the Eiffel tower?")
    assert "city" in json.loads(tab.locator(".message:not(.own) .said").inner_text())
    # A call, as the model's server gives it, and its result.
    tab.evaluate(
        """() => { const chat = document.querySelector('pellucid-chat'); const { all } = chat;
        all.settings.schema = '';
        const rest = { ids: [], bits: [], pieces: [], finish: 'tool_calls', text: '', role: 'assistant' };
        const calls = [{ id: 'call_1', name: 'weather', arguments: '{"city":"Paris"}' }];
        all.messages.x = { ...rest, id: 'x', parent: all.leaf, calls };
        all.leaf = 'x'; chat.requestUpdate(); }"""
    )
    card = tab.get_by_label("Call of weather")
    assert '"city": "Paris"' in card.text_content()
    tab.get_by_label("Result of weather").fill('{"sky": "blue"}')
    with tab.expect_request(re.compile("chat/completions")) as asked:
        tab.get_by_role("button", name="Send result").click()
    messages = asked.value.post_data_json["messages"]
    assert messages[-2]["tool_calls"][0]["function"] == {"name": "weather", "arguments": '{"city":"Paris"}'}
    assert messages[-1] == {"role": "tool", "tool_call_id": "call_1", "content": '{"sky": "blue"}'}


def test_a_long_conversation(tab: Any, tmp_path: Path) -> None:
    """1,000 messages of 500 tokens: while an answer streams and the reader types, frames come at 30 a second or more;
    an upward scroll ends the following."""
    file = tmp_path / "long.json"
    long.write(file)
    seconds = long.frames(tab, file)
    assert seconds and min(seconds) >= 30, seconds
    at = "document.querySelector('.talk')"
    assert tab.evaluate(f"{at}.scrollHeight - {at}.scrollTop - {at}.clientHeight") < 60
    tab.evaluate(f"{at}.scrollTop -= 2000")
    tab.wait_for_timeout(100)
    before = tab.evaluate(f"{at}.scrollTop")
    tab.wait_for_timeout(600)
    assert abs(tab.evaluate(f"{at}.scrollTop") - before) < 50
    tab.get_by_role("button", name="Stop").click()
    tab.wait_for_function("() => document.querySelector('.ask button')?.textContent === 'Send'")
    assert tab.get_by_role("button", name="Go on", exact=True).count() == 1
