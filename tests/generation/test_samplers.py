"""Samplers with a state or that depend on earlier tokens, in generations: compared with the sampler's NumPy twin."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pellucid import Model
from pellucid._kernels import sampling
from tests.sampling import twin

LOOP = "Row, row, row your boat.\nRow, row, row your boat.\nRow, row"


def greedy_with_dry(model: Model, ids: list[int], n: int, breaks: Any, **dry: Any) -> list[int]:
    """New tokens, each from recomputed logits, with penalties found by brute force."""
    ids, start = list(ids), len(ids)
    for _ in range(n):
        x = model.logits(ids)[-1].astype(np.float64)
        back = ids[-dry["range"] :] if dry["range"] > 0 else ids
        lengths = twin.dry_lengths(back, dry["allowed_length"], [breaks(i) for i in back])
        left = twin.kept(
            x, temperature=0, dry=lengths, dry_multiplier=dry["multiplier"], dry_base=dry["base"],
            dry_allowed_length=dry["allowed_length"],
        )  # fmt: skip
        ids.append(int(left.ids[0]))
    return ids[start:]


@pytest.mark.parametrize("range", [-1, 12])
@pytest.mark.parametrize("breakers", [("\n", ":", '"', "*"), (",",)])
def test_dry_in_a_generation(smol: Any, range: int, breakers: tuple[str, ...]) -> None:
    ids = smol.tokenize(LOOP)

    def breaks(id: int) -> int:
        return int(any(b.encode() in smol.tokenizer.piece(id) for b in breakers))

    expected = greedy_with_dry(smol, ids, 10, breaks, multiplier=1.5, base=2.0, allowed_length=2, range=range)
    options: dict[str, Any] = dict(
        temperature=0,
        max_tokens=10,
        ignore_eos=True,
        dry_multiplier=1.5,
        dry_base=2.0,
        dry_range=range,
        dry_breakers=breakers,
    )
    assert smol.generate(LOOP, **options).ids == expected
    assert smol.generate(LOOP, chunk=3, cache=False, **options).ids == expected
    side_by_side = smol.generate([LOOP, "Once upon a time"], **options)
    assert side_by_side[0].ids == expected


def test_dry_breaks_a_loop(ids_only: Any) -> None:
    prompt = [3, 5, 8, 13, 3, 5, 8]
    bias = {13: 12.0}  # the model then tends to repeat this token
    assert ids_only.generate(prompt, temperature=0, max_tokens=1, logit_bias=bias).ids == [13]
    dry: dict[str, Any] = dict(temperature=0, max_tokens=1, dry_multiplier=20.0)
    assert ids_only.generate(prompt, logit_bias=bias, **dry).ids != [13]  # 20 * 1.75 more than the bias
    for off in (dict(dry_range=0), dict(dry_range=4), dict(dry_allowed_length=4), dict(samplers=("temperature",))):
        assert ids_only.generate(prompt, logit_bias=bias, **{**dry, **off}).ids == [13]


def test_mirostat_keeps_its_state_in_a_generation(ids_only: Any) -> None:
    options: dict[str, Any] = dict(mirostat=2, mirostat_tau=3.0, mirostat_eta=0.5, temperature=1.0, seed=9)
    prompt = [1, 2, 3]
    new = ids_only.generate(prompt, max_tokens=20, **options).ids
    assert len(new) == 20
    rows = ids_only.logits(prompt + new)[len(prompt) - 1 : -1]
    mu, allowed = 6.0, set()
    for step, (row, token) in enumerate(zip(rows, new, strict=True)):
        got = sampling.sample(
            ids_only.info().isa, row, step, seed=9, mirostat=2, mirostat_tau=3, mirostat_eta=0.5, mirostat_mu=mu
        )
        assert got["id"] == token
        mu = got["mirostat_mu"]
        allowed.add(got["n_kept"])
    assert len(allowed) > 3
    # A second generation begins anew; so does one beside another.
    assert ids_only.generate(prompt, max_tokens=20, **options).ids == new
    assert ids_only.generate([[4], prompt], max_tokens=20, **options)[1].ids == new


def test_samplers_in_an_order_of_ones_own(smol: Any) -> None:
    ids = smol.tokenize(LOOP)
    row = smol.logits(ids)[-1]
    order = ("temperature", "top_p", "top_k")
    got = set()
    for seed in range(40):
        chosen: dict[str, Any] = dict(temperature=4.0, top_p=0.6, top_k=30, seed=seed)
        token = smol.generate(LOOP, max_tokens=1, min_p=1.0, samplers=order, **chosen).ids
        numbers = [twin.ORDER.index(name) for name in order]
        assert token == [sampling.sample(smol.info().isa, row, order=numbers, **chosen)["id"]]
        got.add(token[0])
    assert len(got) > 10  # min_p, which would leave one, is not among them
    default = smol.generate(LOOP, max_tokens=12, seed=4)
    assert smol.generate(LOOP, max_tokens=12, seed=4, samplers=twin.ORDER).ids == default.ids
