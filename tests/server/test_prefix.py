"""The prefix cache behind the server: what is found, and by whom."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pellucid import Model
from pellucid.server.access import Key
from pellucid.server.app import make_app
from pellucid.server.service import Service
from pellucid.server.settings import Settings
from tests.server.client import call

KEYS = (Key.of("sk-alice", "alice"), Key.of("sk-bob", "bob"))


@pytest.mark.parametrize("share", [False, True])
def test_keys_find_their_own(smollm2: Path, share: bool) -> None:
    with Model.load(smollm2, threads=2, context=512, prefix_cache=True) as model:
        service = Service(Settings(names=("m",), keys=KEYS, share_cache=share), model)
        app = make_app(service)
        body: dict[str, Any] = {"prompt": "The capital of France is", "max_tokens": 3, "temperature": 0}
        found, texts = [], set()
        for key in ("alice", "bob", "alice"):
            answer = call(app, "POST", "/v1/completions", body, {"authorization": f"Bearer sk-{key}"})
            assert answer.status == 200
            usage = answer.json["usage"]
            found.append(usage["prompt_tokens_details"]["cached_tokens"])
            texts.add(answer.json["choices"][0]["text"])
        most = usage["prompt_tokens"] - 1
        assert found == [0, most if share else 0, most] and len(texts) == 1
        service.close()
