"""Caches of what was computed. The model itself keeps that; these are accepted and have no effect."""

from __future__ import annotations

__all__ = ["BaseLlamaCache", "LlamaCache", "LlamaDiskCache", "LlamaRAMCache"]


class BaseLlamaCache:
    def __init__(self, capacity_bytes: int = 2 << 30) -> None:
        self.capacity_bytes = capacity_bytes


class LlamaRAMCache(BaseLlamaCache):
    pass


class LlamaDiskCache(BaseLlamaCache):
    def __init__(self, cache_dir: str = ".cache/llama_cache", capacity_bytes: int = 2 << 30) -> None:
        super().__init__(capacity_bytes)


LlamaCache = LlamaRAMCache
