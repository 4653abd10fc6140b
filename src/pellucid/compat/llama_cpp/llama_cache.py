"""Caches of what was computed. A model keeps that by itself; these are accepted and have no effect."""

from __future__ import annotations

__all__ = ["LlamaCache", "LlamaDiskCache", "LlamaRAMCache"]


class LlamaRAMCache:
    def __init__(self, capacity_bytes: int = 2 << 30) -> None:
        self.capacity_bytes = capacity_bytes


class LlamaDiskCache:
    def __init__(self, cache_dir: str = ".cache/llama_cache", capacity_bytes: int = 2 << 30) -> None:
        self.capacity_bytes = capacity_bytes


LlamaCache = LlamaRAMCache
