"""Spans and metrics, with OpenTelemetry's own exporters."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.adapters.conftest import EXAMPLES, HERE, Run, readme

pytestmark = pytest.mark.clients

PACKAGES = ["opentelemetry-sdk==1.45.2"]


@pytest.fixture(scope="module")
def run(environment: Callable[[list[str]], Run]) -> Run:
    return environment(PACKAGES)


def test_program(run: Run, smollm2: Path) -> None:
    assert run(HERE / "programs" / "otel_program.py", smollm2).endswith("fine\n")


def test_example(run: Run, smollm2: Path) -> None:
    printed = run(EXAMPLES / "spans.py", "The sky is", "--max-tokens", "4")
    assert "text_completion Smollm2" in printed and "4 new tokens" in printed
    assert "prefill" in printed and "decode" in printed


def test_readme(run: Run, smollm2: Path) -> None:
    assert "Error" not in run("-c", readme("pellucid.adapters.otel"))
