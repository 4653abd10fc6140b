"""The input of the comparisons: the text, its windows, and the two models with their expected first tokens."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

HERE = Path(__file__).resolve().parent
TEXT = HERE / "text.txt"
TEXT_SHA256 = "22dd92105526c07ce618a43cc6d239ad4ebda8ebae5ffe44b8d3569c35a2da79"

# Each window is a separate context that starts empty. 1,024 positions are twice Gemma's sliding window.
WINDOW = 1024
WINDOWS = 4
PROMPT = "The capital of France is"


@dataclass(frozen=True)
class ReferenceModel:
    """A model of the catalogue, and the result of full precision for `PROMPT`."""

    name: str
    fixture: str
    sha256: str
    vocab_size: int
    bos: int | None  # first id of every window, where the model wants one
    prompt_ids: tuple[int, ...]
    first_tokens: tuple[tuple[int, str, float], ...]  # id, text, natural log probability; most likely first

    @property
    def golden(self) -> Path:
        """The file of stored reference values."""
        return HERE / f"{self.name}.npz"


SMOLLM2 = ReferenceModel(
    name="smollm2-135m",
    fixture="smollm2",
    sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    vocab_size=49152,
    bos=None,
    prompt_ids=(504, 3575, 282, 4649, 314),
    first_tokens=(
        (7042, " Paris", -0.2581),
        (260, " the", -2.7407),
        (4528, " London", -4.3844),
        (2250, " Le", -4.6199),
        (1315, " New", -4.6778),
    ),
)

GEMMA3 = ReferenceModel(
    name="gemma3-270m",
    fixture="gemma3",
    sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
    vocab_size=262144,
    bos=2,
    prompt_ids=(2, 818, 5279, 529, 7001, 563),
    first_tokens=(
        (506, " the", -1.6540),
        (496, " a", -2.1979),
        (9079, " Paris", -2.4769),
        (886, " one", -2.6325),
        (3224, " known", -2.9616),
    ),
)

MODELS = {model.name: model for model in (SMOLLM2, GEMMA3)}


def read_text() -> str:
    """The text. Raises ValueError where the file is not the one that the stored values were made from."""
    data = TEXT.read_bytes()
    found = hashlib.sha256(data).hexdigest()
    if found != TEXT_SHA256:
        raise ValueError(f"{TEXT}: sha256 is {found}, expected {TEXT_SHA256}")
    return data.decode("utf-8")


def file_sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file, read in pieces of 1 MB."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def windows(ids: Sequence[int], bos: int | None) -> npt.NDArray[np.int32]:
    """(WINDOWS, WINDOW) consecutive windows of a text's ids (given without BOS), each led by BOS where there is one."""
    lead = [] if bos is None else [bos]
    step = WINDOW - len(lead)
    if len(ids) < WINDOWS * step:
        raise ValueError(f"the text has {len(ids)} tokens; {WINDOWS} windows need {WINDOWS * step}")
    return np.array([lead + list(ids[i * step : (i + 1) * step]) for i in range(WINDOWS)], dtype=np.int32)
