"""Mutated HTTP responses give a FetchError or a complete file, nothing else."""

from __future__ import annotations

import random

from pellucid.errors import FetchError
from tests.fuzz import http_response


def test_mutated_responses() -> None:
    rng, outcomes = random.Random(1), {"downloaded": 0, "refused": 0}
    for _ in range(1000):
        try:
            http_response.run(http_response.mutate(rng))
            outcomes["downloaded"] += 1
        except FetchError:
            outcomes["refused"] += 1
    assert min(outcomes.values()) > 100, outcomes
