from collections.abc import Iterator
from typing import Any, overload

import numpy as np
import numpy.typing as npt

VALUE_TYPES: tuple[tuple[str, int, str | None], ...]
TENSOR_TYPES: dict[int, tuple[str, int, int]]

class StringArray:
    field: str
    file: str | None
    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[bytes]: ...
    @overload
    def __getitem__(self, index: int) -> bytes: ...
    @overload
    def __getitem__(self, index: slice) -> list[bytes]: ...
    def text(self, i: int) -> str: ...
    def to_bytes_list(self) -> list[bytes]: ...
    def to_str_list(self) -> list[str]: ...

class Header:
    version: int
    alignment: int
    data_start: int
    size: int
    metadata: dict[str, Any]
    kinds: dict[str, str]
    places: dict[str, int]
    tensors: list[tuple[str, str, tuple[int, ...], int, int]]

def parse_gguf(source: Any, file: str | None = None) -> Header: ...
def encode_spm(
    pieces: list[str] | list[bytes], scores: npt.NDArray[np.float32], types: npt.NDArray[np.int32], byte_fallback: bool
) -> bytes: ...
def decode_spm(data: bytes) -> dict[str, Any]: ...
