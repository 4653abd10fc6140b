"""Matrix products: scalar kernels compared with exact arithmetic, every tier with the scalar kernels."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pellucid import _engine
from pellucid._kernels import weights
from tests.kernels import cases, guard
from tests.kernels.cases import Case

CASES = cases.cases()
TERMS = [(case, terms) for case in CASES for terms in ([1] if case.format in cases.FLOAT else [1, 2])]
IDS = [f"{case}-{terms}" for case, terms in TERMS]


def product(isa: str, case: Case, forms: dict[str, Any], **options: Any) -> np.ndarray:
    raw = cases.raw(case.format, case.rows, case.k, case.codes, case.scales)
    packed = weights.pack("scalar", case.format, raw, case.k)
    return weights.matmul(isa, case.format, packed, case.rows, case.k, **forms, **options)


def reference(case: Case, acts: cases.Acts) -> tuple[np.ndarray, np.ndarray]:
    """The product in float64, and how far a float32 kernel of the fixed order may be from it.

    N fused steps on terms t: each rounds the running sum once, each term carries up to three roundings more (of the
    dot, of s / 256 and of s * s_y), so |error| <= gamma(N + 3) * sum |t| with gamma(n) = n u / (1 - n u), u = 2^-24
    (Higham, Accuracy and Stability, 3.1). Scaled formats add up a super block without its factors, which then multiply
    the sum: no term meets more roundings. What underflows loses up to 2^-150 a rounding, which a dot multiplies.
    """
    raw = cases.raw(case.format, case.rows, case.k, case.codes, case.scales)
    scaled, least = cases.exact_weights(case.format, raw, case.k)
    x = acts.value
    f = cases.FORMATS[case.format]
    own = np.abs(x) @ np.abs(scaled).T  # what cancels in a dot leaves roundings of float64, relative to it
    if f["float"]:
        exact = x @ (scaled + least).T
        size, steps, lost = own, case.k, float(case.k)
    else:
        group = f["group"]
        span = 32 if f["scaled"] else group
        dots = np.einsum(
            "ngk,rgk->nrg", x.reshape(len(x), -1, span), scaled.reshape(case.rows, -1, span), optimize=True
        )
        mins = np.einsum("nbk,rb->nrb", x.reshape(len(x), -1, group), least[:, ::group], optimize=True)
        exact = dots.sum(-1) + mins.sum(-1)
        size = np.abs(dots).sum(-1) + np.abs(mins).sum(-1)
        steps = case.k // span + (case.k // group if f["has_min"] else 0)
        # s_y and s * s_y may lose 2^-150 each; behind them stand 256 * 127 * 32 * 255 and the largest scale
        lost = 2.0 * steps * 256 * 127 * 32 * 255 * (1 + np.abs(scaled).max() + np.abs(least).max())
    u = 2.0**-24
    bound = (steps + 3) * u / (1 - (steps + 3) * u) * size + lost * 2.0**-149 + 1e-12 * size + 2.0**-48 * own
    return exact, bound


def flushed(case: Case, acts: cases.Acts) -> np.ndarray:
    """The further error of vdpbf16ps, which replaces subnormal operands and sums by zero."""
    raw = cases.raw(case.format, case.rows, case.k, case.codes, case.scales)
    w = np.abs(cases.exact_weights(case.format, raw, case.k)[0])
    x = np.abs(acts.value)
    least = 2.0**-126
    lost = lambda a: np.where(a < least, a, 0.0)  # noqa: E731
    return lost(x) @ w.T + x @ lost(w).T + 2 * case.k * least


@pytest.mark.parametrize(("case", "terms"), TERMS, ids=IDS)
def test_scalar_is_within_the_bound_of_its_order_and_every_tier_has_its_bits(case, terms):
    acts = cases.acts(case.format, case.n, case.k, case.acts, terms)
    exact, bound = reference(case, acts)
    scalar = product("scalar", case, acts.forms)
    assert np.isfinite(scalar).all()
    assert (np.abs(scalar - exact) <= bound).all(), np.max(np.abs(scalar - exact) / (bound + 1e-300))
    for isa in cases.TIERS:
        got = product(isa, case, acts.forms)
        if case.format == "BF16" and isa in ("avx512bf16", "amx"):  # its instruction adds a pair in its own order
            assert (np.abs(got - exact) <= 2 * bound + flushed(case, acts)).all(), isa
        else:
            assert got.tobytes() == scalar.tobytes(), isa


@pytest.mark.parametrize("isa", cases.ISAS)
@pytest.mark.parametrize("name", cases.INTEGER)
def test_the_first_of_two_terms_alone(isa, name):
    case = Case(name, 35, 17, 512)
    two = cases.acts(name, case.n, case.k, terms=2).forms
    one = {"q": two["q"][:, :1].copy(), "s": two["s"], "sums": two["sums"][:, :1].copy(), "terms": 1}
    assert product(isa, case, {**two, "terms": 1}).tobytes() == product(isa, case, one).tobytes()


@pytest.mark.parametrize("isa", cases.ISAS)
@pytest.mark.parametrize("terms", [1, 2])
@pytest.mark.parametrize("name", cases.FORMATS)
def test_a_row_does_not_depend_on_its_company(isa, name, terms):
    if terms == 2 and name in cases.FLOAT:
        terms = 1  # they take no integer form
    k = 512 if cases.FORMATS[name]["block"] > 1 else 83
    case = Case(name, 53, 41, k)
    acts = cases.acts(name, case.n, k, terms=terms)
    whole = product(isa, case, acts.forms)
    assert np.isfinite(whole).all()
    for start, stop in [(0, 1), (3, 5), (7, 10), (11, 15), (13, 18), (2, 8), (9, 16), (20, 28), (8, 24), (5, 36)]:
        part = product(isa, case, acts.rows(start, stop))
        assert part.tobytes() == whole[start:stop].tobytes(), (start, stop)


@pytest.mark.parametrize("isa", cases.ISAS)
@pytest.mark.parametrize(("rows", "n", "k"), [(41, 290, 2117), (16, 545, 1024), (70, 70, 4230)])
@pytest.mark.parametrize("name", cases.FLOAT)
def test_many_rows_have_the_bits_of_few(isa, name, rows, n, k):
    """Several blocks of k and of rows, some of them cut short; and what a product has laid out serves the next one."""
    case = Case(name, rows, n, k)
    acts = cases.acts(name, n, k)
    whole = product(isa, case, acts.forms, repeat=2)
    for start in range(0, n, 29):
        part = product(isa, case, acts.rows(start, min(start + 29, n)))
        assert part.tobytes() == whole[start : start + 29].tobytes(), start


@pytest.mark.parametrize("isa", cases.ISAS)
@pytest.mark.parametrize("n", [1, 3, 9])
@pytest.mark.parametrize("name", cases.FORMATS)
def test_a_range_of_tiles_is_part_of_the_whole(isa, name, n):
    k = 256 if cases.FORMATS[name]["block"] > 1 else 31
    case = Case(name, 101, n, k)
    acts = cases.acts(name, n, k)
    whole = product(isa, case, acts.forms)
    for tile0, tile1 in [(0, 1), (1, 4), (2, 7), (6, 7), (3, 3)]:
        part = product(isa, case, acts.forms, tile0=tile0, tile1=tile1)
        inside = slice(16 * tile0, 16 * tile1)
        assert part[:, inside].tobytes() == whole[:, inside].tobytes()
        outside = np.delete(part, np.arange(case.rows)[inside], 1)
        assert np.isnan(outside).all()


def garbage(n: int) -> np.ndarray:
    """n bytes that are NaN as floats and -1 as codes."""
    return np.full(n, 255, np.uint8)


@pytest.mark.parametrize("place", [guard.at_end, guard.at_start])
@pytest.mark.parametrize("isa", cases.ISAS)
@pytest.mark.parametrize("name", cases.FORMATS)
def test_products_stay_within_their_arrays(isa, name, place):
    shapes = [(1, 1, 256), (23, 1, 256), (35, 2, 512), (48, 6, 256), (70, 13, 256), (17, 9, 768), (70, 37, 3328)]
    for rows, n, k in shapes:
        if cases.FORMATS[name]["float"]:
            k //= 51
        for terms in [1] if name in cases.FLOAT else [1, 2]:
            acts = cases.acts(name, n, k, terms=terms)
            forms = {key: value if key == "terms" else place(value) for key, value in acts.forms.items()}
            packed = place(cases.pack_reference(name, cases.raw(name, rows, k), k))
            out, scratch = place(np.empty((n, rows), np.float32)), place(garbage(weights.scratch_bytes(isa, name)))
            weights.matmul(isa, name, packed, rows, k, **forms, out=out, scratch=scratch)
            assert out.tobytes() == product(isa, Case(name, rows, n, k), acts.forms).tobytes()


@pytest.mark.parametrize("isa", cases.ISAS)
@pytest.mark.parametrize("name", cases.FORMATS)
def test_large_products_stay_within_their_scratch(isa, name):
    """The largest numbers of rows and k that a tier lays out at once, and larger ones."""
    n_bytes = weights.scratch_bytes(isa, name)
    assert n_bytes % 64 == 0
    for rows, n, k, terms in [(16, 61, 7168, 1), (16, 16, 4096, 2), (16, 200, 2048, 1), (17, 1, 16384, 1)]:
        k = k - 5 if name in cases.FLOAT else k
        terms = 1 if name in cases.FLOAT else terms
        acts = cases.acts(name, n, k, terms=terms)
        expected = product(isa, Case(name, rows, n, k), acts.forms)
        for place in (guard.at_end, guard.at_start):
            scratch = place(garbage(n_bytes))
            assert product(isa, Case(name, rows, n, k), acts.forms, scratch=scratch).tobytes() == expected.tobytes()


@pytest.mark.parametrize("isa", cases.ISAS)
@pytest.mark.parametrize("name", cases.FORMATS)
def test_rows_may_lie_apart(isa, name):
    """Only the requested columns of a strided result are written; strided float rows are read correctly."""
    k = 256 if cases.FORMATS[name]["block"] > 1 else 19
    case = Case(name, 37, 4, k)
    acts = cases.acts(name, case.n, k)
    expected = product(isa, case, acts.forms)
    wide = np.full((case.n, 50), 7, np.float32)
    forms = dict(acts.forms)
    if "x" in forms:
        forms["x"] = np.hstack([forms["x"], np.full((case.n, 5), np.nan, np.float32)])[:, :k]
    product(isa, case, forms, out=wide[:, 5:42])
    assert wide[:, 5:42].tobytes() == expected.tobytes()
    assert (wide[:, :5] == 7).all() and (wide[:, 42:] == 7).all()


def test_wrong_arguments_are_named():
    case = Case("Q4_0", 16, 2, 64)
    acts = cases.acts("Q4_0", 2, 64)
    with pytest.raises(ValueError, match="Q4_0 needs q"):
        product("scalar", case, {})
    with pytest.raises(ValueError, match="s is float64"):
        product("scalar", case, {**acts.forms, "s": acts.forms["s"].astype(np.float64)})
    with pytest.raises(ValueError, match="terms is 3"):
        product("scalar", case, {**acts.forms, "terms": 3})
    with pytest.raises(ValueError, match="sums is missing"):
        product("scalar", case, {**acts.forms, "sums": None})
    with pytest.raises(ValueError, match=r"tiles \[0, 2\)"):
        product("scalar", case, acts.forms, tile1=2)


@pytest.mark.parametrize("format", [name for name in cases.FORMATS if name not in cases.FLOAT])
@pytest.mark.parametrize("isa", cases.ISAS)
def test_a_tuning_changes_no_bit(isa: str, format: str) -> None:
    rng = np.random.default_rng(17)
    limits = _engine.tuning_limits()
    extremes = [{name: limit[end] for name, limit in limits.items()} for end in (0, 1)]
    rows, k = 70, 1024
    packed = weights.pack("scalar", format, cases.raw(format, rows, k), k)
    for n in (1, 2, 3, 4, 5, 7, 11, 13, 16, 50):
        for terms in (1, 2):
            forms = cases.acts(format, n, k, terms=terms).forms
            expected = weights.matmul(isa, format, packed, rows, k, **forms)
            drawn = [{name: int(rng.integers(a, b + 1)) for name, (a, b) in limits.items()} for _ in range(4)]
            for tuning in [*extremes, *drawn]:
                found = weights.matmul(isa, format, packed, rows, k, **forms, tuning=tuning, repeat=2)
                assert np.array_equal(found, expected), tuning
