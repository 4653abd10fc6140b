"""Tiny models of every family that Pellucid runs: one Case each, from which both file forms and the references follow.

To add a case: 1. append a Case to tests/families/cases/FAMILY.py (a new file is found by itself); 2. run
`python -m tests.families.make_golden NAME` (needs torch and transformers), which writes golden/NAME.npz; 3. run
`pytest tests/families -k NAME`, then the same with `--live`.

transformers makes the model of `config(**sizes)` and saves it; from that folder the golden file keeps config.json and
the names and shapes of the tensors, which are the hub's. Values are drawn by NumPy from the case's seed and each
tensor's name, so that the model can be made again without transformers. A GGUF file has the names of the `gguf`
package's own tables; a case says which keys its converter writes and what it does to tensors.
"""

from __future__ import annotations

import json
import math
import re
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt
from safetensors.numpy import save_file

GOLDEN = Path(__file__).resolve().parent / "golden"
LENGTHS = (1, 17, 200)  # tokens of the sequences that are compared
STEPS = 32  # tokens that follow the longest one, each in a pass of its own
KEPT = (0, 1, 5, 16, 40, 63, 64, 65, 130, 199, 215, 231)  # positions whose logits the golden file holds

Array = npt.NDArray[Any]
Weights = dict[str, Array]
Settings = Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class Gguf:
    """How a converter writes this family as a GGUF file."""

    arch: str  # general.architecture
    keys: Callable[[Settings], Settings]  # config.json (or its text_config) -> keys, without the architecture's name
    # (config, a tensor's name without the wrapper's prefix, values) -> what becomes of it: values, or several tensors
    # by the hub's names, or by GGUF's where they end in neither ".weight" nor ".bias" of a known module
    change: Callable[[Settings, str, Array], Array | Weights] = lambda config, name, value: value
    extra: Callable[[Settings], Weights] = lambda config: {}  # tensors that no folder has, by GGUF's name
    names: Mapping[str, str] = field(default_factory=dict)  # hub's name -> GGUF's, beside those of the gguf package
    bare: Callable[[Weights], Settings] = lambda tensors: {}  # hub's tensors -> keys without the architecture's name
    merge: Callable[[Weights], Weights] = lambda tensors: tensors  # what it does to all tensors at last


@dataclass(frozen=True, eq=False)
class Case:
    """One tiny model.

    name: of the golden file. family: as docs/models.md has it. config: transformers' configuration class. sizes: its
    arguments, beside those of SIZES. odd: what this case is there for.
    """

    name: str
    family: str
    config: str
    seed: int
    odd: str
    tokens: int = 0  # seed of the token ids, where those of `seed` have a near tie between experts (test_ties.py)
    sizes: Settings = field(default_factory=dict)
    gguf: Gguf | None = None
    ranges: Mapping[str, tuple[float, float]] = field(default_factory=dict)  # pattern of a tensor's name -> its values
    gains: Mapping[str, float] = field(default_factory=dict)  # pattern of a matrix's name -> factor of its values
    lengths: tuple[int, ...] = LENGTHS
    read: frozenset[str] = frozenset()  # keys of config.json that may alter logits, beside config_keys.READ
    resized: frozenset[str] = frozenset()  # keys whose error names the tensor that no longer fits
    optional: str = "(?!)"  # pattern of tensors that make no difference where they are missing
    strict: bool = False  # change every key: for one case of each model_type
    auto: str = "AutoModelForCausalLM"


# What every case has unless it says otherwise. The widths are multiples of 32, for the variants in Q8_0.
SIZES: Settings = {
    "vocab_size": 97,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}


# ---- the model ------------------------------------------------------------------------------------------------

# Factors of matrices' values, which are uniform with standard deviation factor / sqrt(columns): scores that spread, so
# that a wrong position shows, and residual additions that matter.
GAINS = {
    r"embed|wte|wpe": 3.0,
    r"(q|k|query|key|qkv|query_key_value|c_attn)(_proj)?\.weight$": 2.0,
    r"(o|out|down|c)_proj\.weight$|dense\.weight$|dense_4h_to_h|fc2": 2.0,
}


@dataclass(frozen=True, eq=False)
class Golden:
    """What a golden file holds."""

    config: dict[str, Any]  # config.json as transformers wrote it
    shapes: dict[str, tuple[list[int], float]]  # hub's name of each tensor -> its shape, its values' middle
    logits: npt.NDArray[np.float32]  # of the positions KEPT
    made_of: list[str]


def routed(golden: Golden) -> bool:
    """Whether the model has experts."""
    return any(".experts" in name or "sparse_moe" in name for name in golden.shapes)


def load_golden(case: Case) -> Golden:
    with np.load(GOLDEN / f"{case.name}.npz", allow_pickle=False) as file:
        shapes = {name: (list(shape), middle) for name, (shape, middle) in json.loads(str(file["shapes"])).items()}
        return Golden(json.loads(str(file["config"])), shapes, file["logits"], [str(x) for x in file["made_of"]])


def save_golden(case: Case, golden: Golden) -> None:
    np.savez_compressed(
        GOLDEN / f"{case.name}.npz",
        config=np.array(json.dumps(golden.config)),
        shapes=np.array(json.dumps(golden.shapes)),
        logits=golden.logits.astype(np.float32),
        made_of=np.array(golden.made_of),
    )


def token_ids(case: Case, vocab: int) -> list[int]:
    """A fixed sequence, with the vocabulary's first and last id near its start."""
    ids = [int(i) for i in np.random.default_rng(case.tokens or case.seed).integers(0, vocab, LENGTHS[-1] + STEPS)]
    ids[1], ids[2] = 0, vocab - 1
    return ids


def draw(case: Case, name: str, shape: list[int], middle: float) -> npt.NDArray[np.float32]:
    """A tensor's values. middle: of vectors, which is 1 for the weights of norms that are no offsets."""
    generator = np.random.Generator(np.random.PCG64([case.seed, zlib.crc32(name.encode())]))
    unit = np.asarray(generator.random(shape))
    for pattern, (low, high) in case.ranges.items():
        if re.search(pattern, name):
            return np.asarray(low + (high - low) * unit, np.float32)
    if len(shape) < 2:
        return np.asarray(middle + 0.8 * (unit - 0.5), np.float32)
    gain = next((gain for pattern, gain in {**case.gains, **GAINS}.items() if re.search(pattern, name)), 1.0)
    return ((2.0 * unit - 1.0) * gain * math.sqrt(3.0 / shape[-1])).astype(np.float32)


def weights(case: Case, golden: Golden) -> Weights:
    """Tensors under the hub's names."""
    return {name: draw(case, name, shape, middle) for name, (shape, middle) in golden.shapes.items()}


def write_folder(case: Case, golden: Golden, path: Path, config: Settings | None = None) -> Path:
    """The Hugging Face folder. config: another config.json."""
    path.mkdir(parents=True, exist_ok=True)
    (path / "config.json").write_text(json.dumps(config or golden.config, indent=2), encoding="utf-8")
    save_file(weights(case, golden), path / "model.safetensors", metadata={"format": "pt"})
    return path


# ---- its GGUF file --------------------------------------------------------------------------------------------


def text_config(config: dict[str, Any]) -> dict[str, Any]:
    """The settings of the text model: those of a wrapper's text_config."""
    found: dict[str, Any] = config.get("text_config", config)
    return found


def with_keys(config: Settings, **changed: Any) -> dict[str, Any]:
    """config.json with other settings of the text model. ...: without the key."""
    own = {key: value for key, value in {**text_config(dict(config)), **changed}.items() if value is not ...}
    return {**config, "text_config": own} if "text_config" in config else own


def common_keys(config: Settings) -> dict[str, Any]:
    """What converters write for every decoder with an RMS norm and a rotation. None: the key is left out."""
    rope = config.get("rope_parameters") or {}
    return {
        "context_length": config["max_position_embeddings"],
        "block_count": config["num_hidden_layers"],
        "embedding_length": config["hidden_size"],
        "feed_forward_length": config["intermediate_size"],
        "attention.head_count": config["num_attention_heads"],
        "attention.head_count_kv": config.get("num_key_value_heads"),
        "attention.key_length": config.get("head_dim"),
        "attention.value_length": config.get("head_dim"),
        "attention.layer_norm_rms_epsilon": config.get("rms_norm_eps"),
        "attention.layer_norm_epsilon": config.get("layer_norm_eps") or config.get("norm_epsilon"),
        "rope.freq_base": rope.get("rope_theta"),
        **scaling_keys(rope),
        "vocab_size": config["vocab_size"],
    }


def scaling_keys(rope: Settings) -> dict[str, Any]:
    """What converters write for linear and YaRN scaling."""
    if rope.get("rope_type") not in ("linear", "yarn"):
        return {}
    return {
        "rope.scaling.type": rope["rope_type"],
        "rope.scaling.factor": rope["factor"],
        "rope.scaling.original_context_length": rope.get("original_max_position_embeddings"),
        "rope.scaling.yarn_attn_factor": rope.get("attention_factor"),
        "rope.scaling.yarn_beta_fast": rope.get("beta_fast"),
        "rope.scaling.yarn_beta_slow": rope.get("beta_slow"),
    }


def interleave(value: Array, heads: int) -> Array:
    """Reorders the rows of every head, also of a bias, from (first half, second half) to pairs of one of each."""
    rows = len(value)
    return np.ascontiguousarray(value.reshape(heads, 2, rows // heads // 2, -1).swapaxes(1, 2)).reshape(value.shape)


def interleaved(config: Settings, name: str, value: Array) -> Array:
    """As the converter of Llama writes q and k."""
    if "q_proj" in name:
        return interleave(value, config["num_attention_heads"])
    if "k_proj" in name:
        return interleave(value, config["num_key_value_heads"])
    return value


_TEXT = re.compile(r"^(model\.language_model\.|language_model\.model\.)")


def gguf_tensors(case: Case, golden: Golden) -> Weights:
    """The tensors of the F32 file, by GGUF's names."""
    assert case.gguf is not None
    config = text_config(golden.config)
    known = {name: key for key, name in gguf.MODEL_ARCH_NAMES.items()}
    arch = known.get(case.gguf.arch, gguf.MODEL_ARCH.LLAMA)  # the package may be older than an architecture
    layers = config.get("num_hidden_layers") or config.get("n_layer") or len(config.get("layers_block_type", "1"))
    table = gguf.get_tensor_name_map(arch, layers)
    out: Weights = dict(case.gguf.extra(config))
    for own, value in weights(case, golden).items():
        name = _TEXT.sub("model.", own)
        changed = case.gguf.change(config, name, value)
        for one, what in (changed if isinstance(changed, dict) else {name: changed}).items():
            found = case.gguf.names.get(one) or table.get_name(one, try_suffixes=(".weight", ".bias"))
            out[found or one] = what
    return case.gguf.merge(out)


_IN_F32 = ("position_embd.weight", "token_types.weight")  # whatever the format of the file


def encode(value: Array, kind: str) -> tuple[Array, Any]:
    """(data, format or None for float32). Vectors and matrices of unfitting widths stay in float32."""
    if kind == "F32" or value.ndim < 2 or value.shape[-1] % 32:
        return np.ascontiguousarray(value, np.float32), None
    chosen = getattr(gguf.GGMLQuantizationType, kind)
    return gguf.quantize(np.ascontiguousarray(value, np.float32), chosen), chosen


def write_gguf(case: Case, golden: Golden, path: Path, kind: str = "F32") -> Path:
    """The GGUF file, without a tokenizer. kind: the format of matrices."""
    assert case.gguf is not None
    writer = gguf.GGUFWriter(path, case.gguf.arch)
    writer.add_name(case.name)
    for key, value in case.gguf.keys(text_config(golden.config)).items():
        if value is not None:
            add_key(writer, f"{case.gguf.arch}.{key}", value)
    for key, value in case.gguf.bare(weights(case, golden)).items():
        add_key(writer, key, value)
    for name, value in gguf_tensors(case, golden).items():
        data, chosen = encode(value, "F32" if name.endswith((".bias", "_norm.weight")) or name in _IN_F32 else kind)
        writer.add_tensor(name, data, raw_dtype=chosen)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def add_key(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    else:
        writer.add_array(key, list(value))
