"""A model that reasons: the default one, with a template that begins its reasoning unless it is told not to."""

from __future__ import annotations

import struct
from pathlib import Path

__all__ = ["TEMPLATE", "write"]

TEMPLATE = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n<think>\\n' }}"
    "{% if enable_thinking is false %}{{ '\\n</think>\\n\\n' }}{% endif %}{% endif %}"
)
KEY = b"tokenizer.chat_template"


def write(base: Path, path: Path) -> Path:
    """Writes a GGUF file as `base`, with this template in place of its own, which must not be shorter."""
    data = bytearray(base.read_bytes())
    at = data.index(KEY) + len(KEY) + 4  # after the key and the value's type
    (size,) = struct.unpack_from("<Q", data, at)
    spare = size - len(TEMPLATE) - len("{##}")
    assert spare >= 0
    data[at + 8 : at + 8 + size] = f"{TEMPLATE}{{#{' ' * spare}#}}".encode()
    path.write_bytes(data)
    return path
