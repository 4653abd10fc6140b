from typing import Any

import numpy as np
import numpy.typing as npt

def encode_model(
    pieces: list[str] | list[bytes], scores: npt.NDArray[np.float32], types: npt.NDArray[np.int32], byte_fallback: bool
) -> bytes: ...
def decode_model(data: bytes) -> dict[str, Any]: ...
