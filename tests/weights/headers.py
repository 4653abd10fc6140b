"""Headers of GGUF files, byte by byte: functions that build them, and invalid headers."""

from __future__ import annotations

import struct


def text(value: bytes) -> bytes:
    return struct.pack("<Q", len(value)) + value


def pair(key: bytes, kind: int, value: bytes) -> bytes:
    return text(key) + struct.pack("<I", kind) + value


def info(name: bytes, dims: tuple[int, ...], kind: int, offset: int) -> bytes:
    return text(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, kind, offset)


ARCH = pair(b"general.architecture", 8, text(b"llama"))


def build(
    pairs: tuple[bytes, ...] = (ARCH,),
    infos: tuple[bytes, ...] = (),
    data: bytes = b"",
    version: int = 3,
    counts: tuple[int, int] | None = None,
    alignment: int = 32,
) -> bytes:
    n_tensors, n_pairs = counts or (len(infos), len(pairs))
    head = b"GGUF" + struct.pack("<IQQ", version, n_tensors, n_pairs) + b"".join(pairs) + b"".join(infos)
    return head + bytes(-len(head) % alignment) + data if infos else head


BIG = struct.pack("<Q", 1 << 62)
ONE = info(b"t", (32,), 0, 0)
# Raw bytes, and the field, offset and expectation of the error.
HEADERS: dict[str, tuple[bytes, str, int, str]] = {
    "version 1": (build(version=1), "version", 4, "2 or 3"),
    "version 4": (build(version=4), "version", 4, "2 or 3"),
    "version 0": (build(version=0), "version", 4, "2 or 3"),
    "big-endian": (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "version", 4, "little-endian"),
    "tensor count": (build(counts=(1 << 60, 1)), "tensor_count", 8, "at most"),
    "metadata count": (build(counts=(0, 1 << 60)), "metadata_count", 16, "at most"),
    "one pair too many": (build(counts=(0, 2)), "metadata[1]", 69, "8 more bytes"),
    "key length": (build((BIG + b"abcdefg",)), "metadata[0]", 24, "at most"),
    "long key": (build((pair(b"k" * 70000, 0, b"\0"),)), "metadata[0]", 24, "at most 65535"),
    "empty key": (build((pair(b"", 4, bytes(4)),)), "metadata[0]", 24, "1 to"),
    "key not UTF-8": (build((pair(b"ab\xff", 4, bytes(4)),)), "metadata[0]", 34, "UTF-8"),
    "NUL in a key": (build((pair(b"a\0b", 4, bytes(4)),)), "metadata[0]", 32, "text"),
    "key twice": (build((ARCH, ARCH)), "general.architecture", 69, "differ"),
    "value type": (build((pair(b"k", 13, bytes(8)),)), "k", 33, "0 to 12"),
    "string length": (build((pair(b"k", 8, BIG),)), "k", 37, "at most"),
    "truth value": (build((pair(b"k", 7, b"\2"),)), "k", 37, "0 or 1"),
    "element type": (build((pair(b"k", 9, struct.pack("<IQ", 13, 0)),)), "k", 37, "0 to 12"),
    "nested array": (build((pair(b"k", 9, struct.pack("<IQ", 9, 1) + bytes(12)),)), "k", 37, "array of numbers"),
    "arrays nested deep": (build((pair(b"k", 9, struct.pack("<IQ", 9, 1) * 100_000),)), "k", 37, "array of numbers"),
    "array of numbers": (build((pair(b"k", 9, struct.pack("<IQ", 12, 1 << 61)),)), "k", 41, "at most 0"),
    "array of strings": (build((pair(b"k", 9, struct.pack("<IQ", 8, 1 << 61)),)), "k", 41, "at most 0"),
    "truth values": (build((pair(b"k", 9, struct.pack("<IQ", 7, 3) + b"\0\1\x09"),)), "k[2]", 51, "0 or 1"),
    "string of an array": (build((pair(b"k", 9, struct.pack("<IQ", 8, 3) + text(b"a") + BIG + text(b"")),)),
                           "k[1]", 58, "at most"),
    "string at the end": (build((pair(b"k", 9, struct.pack("<IQ", 8, 2) + text(b"abcdefghi")),)), "k[1]", 66, "8 more"),
    "dimensions 0": (build(infos=(info(b"tt", (), 0, 0) + bytes(8),)), "tt.dims", 79, "1 to 4"),
    "dimensions 5": (build(infos=(info(b"tt", (1,) * 5, 0, 0),)), "tt.dims", 79, "1 to 4"),
    "a dimension of 0": (build(infos=(info(b"t", (32, 0), 0, 0),)), "t.dims[1]", 90, "1 or more"),
    "product": (build(infos=(info(b"t", (1 << 33, 1 << 33), 0, 0),)), "t.dims[1]", 90, "2**56"),
    "rows of half blocks": (build(infos=(info(b"t", (48,), 8, 0),), data=bytes(64)), "t.dims[0]", 90, "32"),
    "name twice": (build(infos=(ONE, ONE), data=bytes(256)), "t", 102, "differ"),
    "name not UTF-8": (build(infos=(info(b"\xff", (32,), 0, 0),)), "tensors[0].name", 77, "UTF-8"),
    "long name": (build(infos=(info(b"t" * 2000, (32,), 0, 0),)), "tensors[0].name", 69, "at most 1023"),
    "offset": (build(infos=(info(b"t", (32,), 0, 8),), data=bytes(256)), "t.offset", 94, "multiple of 32"),
    "offset beyond": (build(infos=(info(b"t", (32,), 0, 1 << 63),), data=bytes(256)), "t.offset", 94, "within"),
    "data beyond": (build(infos=(info(b"t", (32,), 0, 128),), data=bytes(255)), "t.offset", 94, "at least 384"),
    "data at the end": (build(infos=(info(b"t", (32,), 0, 128),), data=bytes(64)), "t.offset", 94, "more than 256"),
    "overlap": (build(infos=(ONE, info(b"u", (32,), 0, 96)), data=bytes(256)), "u.offset", 127, "128 or more"),
    "same place": (build(infos=(info(b"u", (32,), 99, 0), ONE), data=bytes(256)), "t.offset", 127, "or more"),
    **{
        f"alignment {value}": (build((ARCH, pair(b"general.alignment", 4, struct.pack("<I", value)))),
                               "general.alignment", 98, "power of two")
        for value in (0, 1, 24, 33, 1 << 31)
    },
    "alignment as text": (build((ARCH, pair(b"general.alignment", 8, text(b"32")))),
                          "general.alignment", 98, "power of two"),
}  # fmt: skip
