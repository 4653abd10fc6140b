"""A short run of `tests/server/soak`, and what a long one found."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

from pellucid import Model
from pellucid.server.app import make_app
from pellucid.server.service import Service
from pellucid.server.settings import Settings
from tests.server.client import ask

SOAK = Path(__file__).parent / "soak"


def test_a_short_soak(smollm2: Path) -> None:
    done = subprocess.run(
        [sys.executable, SOAK, "8", "--clients", "32", "-m", smollm2],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0 and done.stdout.endswith("nothing is wrong\n"), done.stdout


def test_scores_wait_for_memory(smollm2: Path) -> None:
    """Prompts that are scored while others have the memory: they were answered with 500. Where a prompt that is scored
    has the memory that a generation needs, that may be sent again."""
    body = {"prompt": "a river " * 120, "max_tokens": 40, "ignore_eos": True, "temperature": 0}
    scored = {**body, "max_tokens": 1, "echo": True, "logprobs": 1}

    async def run(model: Model, service: Service) -> None:
        app = make_app(service)
        alone = (await ask(app, "POST", "/v1/completions", scored)).json["choices"]
        others = [
            asyncio.ensure_future(ask(app, "POST", "/v1/completions", {**body, "prompt": f"{i} {body['prompt']}"}))
            for i in range(4)
        ]
        while model.stats().generated_tokens < 8:
            await asyncio.sleep(0.01)
        asked = [ask(app, "POST", "/v1/completions", scored) for _ in range(2)]
        answers = await asyncio.gather(*asked, *others)
        for answer in answers:
            assert answer.status in (200, 429), answer.body
        for answer in answers[:2]:
            assert answer.status == 429 or answer.json["choices"] == alone
        assert any(answer.status == 200 for answer in answers[:2])

    with Model.load(smollm2, threads=2, context=512, cache_bytes=8 << 20) as model:
        service = Service(Settings(), model)
        asyncio.run(run(model, service))
        service.close()
