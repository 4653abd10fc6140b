"""A long conversation in the app: 1,000 messages of 500 tokens, and the frames while an answer streams and the reader
types."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

__all__ = ["frames", "write"]

# The app's own program, with an answer in place of the server's: a token every 10 ms, until it is stopped.
STREAM = """() => {
  const own = window.fetch;
  window.fetch = (path, what) => {
    if (!String(path).endsWith("chat/completions")) return own(path, what);
    const encoder = new TextEncoder();
    let i = 0;
    return Promise.resolve(new Response(new ReadableStream({
      start(controller) {
        what.signal.addEventListener("abort", () => controller.error(what.signal.reason));
      },
      async pull(controller) {
        await new Promise((done) => setTimeout(done, 10));
        const token = { id: i, token: ` word${i}`, logprob: -1 };
        const delta = { content: i % 40 ? token.token : "\\n\\n# part\\n\\n" };
        const choice = { delta, logprobs: { content: [token] }, finish_reason: null };
        i++;
        const event = `data: ${JSON.stringify({ choices: [choice] })}\\n\\n`;
        if (!what.signal.aborted) controller.enqueue(encoder.encode(event));
      },
    }), { status: 200 }));
  };
  window.frames_ = [];
  const frame = (now) => { window.frames_.push(now); requestAnimationFrame(frame); };
  requestAnimationFrame(frame);
}"""


def write(path: Path) -> None:
    """The conversation, as a file that the app imports."""
    text = "\n\n".join(
        f"**Paragraph** {i}: " + "some words that fill it, `code`, and [a link](https://x.org) " * 4 for i in range(9)
    )
    messages: dict[str, Any] = {}
    parent = None
    for i in range(1000):
        answer = {"ids": [*range(500)], "bits": [1.5] * 500, "pieces": [" word"] * 500}
        rest = answer if i % 2 else {"ids": [], "bits": [], "pieces": []}
        role = "assistant" if i % 2 else "user"
        messages[f"m{i}"] = {"id": f"m{i}", "parent": parent, "role": role, "text": text, "finish": "stop", **rest}
        parent = f"m{i}"
    one = {"title": "long", "changed": 1, "leaf": parent, "messages": messages}
    path.write_text(json.dumps({"pellucid_conversations": 1, "conversations": [one]}))


def frames(tab: Any, path: Path) -> list[int]:
    """Imports the conversation, asks, and types on while the answer streams -> how many frames each second had that
    began with a frame. The answer goes on behind it."""
    tab.locator("input[type=file]").set_input_files(path)
    tab.wait_for_function("() => document.querySelectorAll('pellucid-message').length === 1000")
    tab.wait_for_selector(".kept li")
    tab.wait_for_timeout(500)
    tab.evaluate(STREAM)
    box = tab.get_by_label("Your message")
    box.fill("Go on.")
    box.press("Enter")
    tab.wait_for_function("() => document.querySelectorAll('pellucid-message').length === 1002")
    tab.evaluate("() => { window.frames_.length = 0; }")
    # By the keyboard, which is still in the box: to find it again by its label, Playwright reads every button of the
    # conversation, for half a second, in the page's own thread.
    tab.keyboard.type("typing while it is written ", delay=40)
    times = tab.evaluate("() => window.frames_")
    assert tab.evaluate("document.activeElement.value") == "typing while it is written "
    return [sum(start <= one < start + 1000 for one in times) for start in times if start + 1000 <= times[-1]]
