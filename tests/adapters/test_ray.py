"""Ray Data and Ray Serve, with Ray itself: two actors on four logical CPUs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from pellucid import Model
from pellucid.schedule.many import seed_of
from tests.adapters.conftest import EXAMPLES, HERE, Run, readme
from tests.clients.conftest import serving

pytestmark = pytest.mark.clients

PACKAGES = ["ray[data,serve]==2.60.0", "llguidance>=1.9,<2"]


@pytest.fixture(scope="module")
def run(environment: Callable[[list[str]], Run]) -> Run:
    run = environment(PACKAGES)
    return lambda *arguments, **more: run(*arguments, RAY_USAGE_STATS_ENABLED="0", **more)


def test_program(run: Run, smollm2: Path) -> None:
    assert run(HERE / "programs" / "ray_program.py", smollm2).endswith("fine\n")


def test_example(run: Run, smollm2: Path, tmp_path: Path) -> None:
    lines = [f"The {word} is" for word in ("sky", "sea", "sun")]
    (tmp_path / "lines.txt").write_text("\n".join(lines))
    run(EXAMPLES / "ray_lines.py", tmp_path / "lines.txt", tmp_path / "out", "--max-tokens", "4", "--cpus", "4")
    rows = [json.loads(line) for file in (tmp_path / "out").iterdir() for line in file.read_text().splitlines()]
    with Model.load(smollm2, kv="f16") as model:
        expected = {one: model.generate(one, max_tokens=4, seed=seed_of(0, one)).text for one in lines}
    assert {row["prompt"]: row["text"] for row in rows} == expected


def test_readme(run: Run, smollm2: Path) -> None:
    """On four logical CPUs, however many there are."""
    assert "finish_reason" in run("-c", "import ray; ray.init(num_cpus=4)\n" + readme("pellucid.adapters.ray"))


def test_processors(run: Run, smollm2: Path) -> None:
    page = EXAMPLES.parent / "docs" / "ray.md"
    with serving(smollm2, "--kv", "f16") as url:
        assert run(HERE / "programs" / "ray_processors.py", smollm2, page, url).endswith("fine\n")
