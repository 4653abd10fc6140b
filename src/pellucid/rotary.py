"""Scaled rotations: the divisor of each frequency base^(-2i/n), and the factor of cosines and sines.

Sources: the papers, and transformers' modeling_rope_utils.
"""

from __future__ import annotations

import math


def llama3(n: int, base: float, factor: float, low: float, high: float, original: float) -> list[float]:
    """Llama 3.1: 1 for short wavelengths, `factor` for long ones, a blend in between. n: rotated columns of a head;
    original: the context that the model was first trained with."""
    out = []
    for i in range(n // 2):
        turns = original * base ** (-2.0 * i / n) / (2 * math.pi)  # over the original context
        blend = min(max((turns - low) / (high - low), 0.0), 1.0)
        out.append(1.0 / ((1 - blend) / factor + blend))
    return out


def yarn(
    n: int, base: float, factor: float, original: float, fast: float = 32.0, slow: float = 1.0, whole: bool = True
) -> list[float]:
    """YaRN (Peng et al. 2023): 1 for the pairs that turn more than `fast` times over the original context, `factor` for
    those that turn less than `slow` times, and a ramp in between. whole: the ramp begins and ends at whole pairs."""

    def pair(turns: float) -> float:
        return n * math.log(original / (turns * 2 * math.pi)) / (2 * math.log(base))

    first, last = pair(fast), pair(slow)
    if whole:
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, n - 1)
    if first == last:
        last += 0.001
    ramps = [min(max((i - first) / (last - first), 0.0), 1.0) for i in range(n // 2)]
    return [1.0 / (ramp / factor + 1 - ramp) for ramp in ramps]


def yarn_scale(factor: float, weight: float = 1.0) -> float:
    """YaRN's factor of cosines and sines."""
    return 0.1 * weight * math.log(factor) + 1.0 if factor > 1 else 1.0


def longrope_scale(factor: float, original: float) -> float:
    """LongRoPE's factor of cosines and sines (Ding et al. 2024)."""
    return math.sqrt(1 + math.log(factor) / math.log(original)) if factor > 1 else 1.0
