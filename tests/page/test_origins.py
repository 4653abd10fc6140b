"""A page of another origin that calls the server, as clients in a browser do, in Chromium and in Firefox."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import HTTPServer, SimpleHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from pellucid import Model
from pellucid.server.access import Key
from tests.page import browsers
from tests.server.sockets import running

pytestmark = pytest.mark.page

# The headers of OpenAI's client for JavaScript, and of Anthropic's.
ASK = """fetch("ADDRESS/v1/completions", {
    method: "POST", body: '{"prompt": "Hi", "max_tokens": 1, "user": "a"}', headers: {
    "Content-Type": "application/json", Authorization: "Bearer sk-a", "X-Stainless-OS": "Unknown",
    "X-Stainless-Retry-Count": "0", "anthropic-version": "2023-06-01"}})
  .then(answer => [answer.status, answer.headers.get("pellucid-ignored")], error => String(error))"""
REMOVE = """fetch("ADDRESS/v1/responses/none", {method: "DELETE"})
  .then(answer => answer.status, error => String(error))"""


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def origin(tmp_path: Path) -> Iterator[str]:
    """Of a page that is empty."""
    (tmp_path / "index.html").write_text("<title>a page</title>")
    server = HTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def check(evaluate: Callable[[str], Any], address: str, allowed: bool) -> None:
    found = [evaluate(one.replace("ADDRESS", address)) for one in (ASK, REMOVE)]
    if allowed:
        assert found == [[200, "user"], 401]
    else:
        assert all("TypeError" in one for one in found), found


@pytest.mark.parametrize("allowed", [True, False])
def test_a_page_of_another_origin(smol: Model, origin: str, tmp_path: Path, allowed: bool) -> None:
    origins = (origin if allowed else "http://127.0.0.1",)
    with running(smol, keys=(Key.of("sk-a"),), origins=origins) as server:
        address = f"http://127.0.0.1:{server.port}"
        with browsers.chromium() as chromium:
            page = chromium.new_page()
            page.goto(origin)
            check(page.evaluate, address, allowed)
        with browsers.firefox(tmp_path) as firefox:
            firefox.open(origin)
            check(firefox.evaluate, address, allowed)
