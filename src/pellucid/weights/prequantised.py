"""Hugging Face folders whose weights are quantised: GPTQ, AWQ, AutoRound, compressed-tensors, FP8.

`join` puts the tensors of each quantised matrix (codes, scales, zero points) together into one. Which matrices are
quantised, with how many bits and which groups, is derived from the tensors; quantization_config must agree with them,
and anything in it that would alter results is read or refused by name.
Sources: the packages gptqmodel 7.7, autoawq 0.2.9, auto-round 0.16, compressed-tensors 0.20; transformers'
integrations/finegrained_fp8.py.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from pellucid.errors import ModelFileError, UnsupportedModelError
from pellucid.weights import fp8
from pellucid.weights.base import ModelFile, Tensor
from pellucid.weights.integers import Integers, Joined, nibbles, numbers

__all__ = ["Quantised", "join"]

_METHODS = "GPTQ, AWQ, AutoRound, compressed-tensors (integers of 4 and 8 bits, FP8) and FP8"
_HINT = "a GGUF file of the model, or quantize= on the original folder"
# Keys that affect no result, besides those that are read: calibration, and settings of other runtimes.
_HARMLESS = frozenset(
    """
    quant_method bits group_size sym desc_act static_groups true_sequential damp_percent damp_auto_increment lm_head
    model_name_or_path model_file_base_name quantizer meta dataset tokenizer batch_size pad_token_id model_seqlen
    max_input_length block_name_to_quantize module_name_preceding_first_block modules_in_block_to_quantize
    modules_to_not_convert modules_to_convert cache_block_outputs use_cuda_fp16 use_exllama exllama_config backend
    disable_exllama act_group_aware mse dynamic extra_config offload_to_disk offload_to_disk_path parallel_packing
    pack_impl gptaq device v2 v2_alpha
    zero_point version format checkpoint_format pack_dtype is_marlin_format packing_format data_type do_fuse
    fuse_max_seq_len modules_to_fuse
    autoround_version iters lr minmax_lr enable_quanted_input enable_minmax_tuning nsamples seqlen to_quant_block_names
    block_name_list supported_types low_gpu_mem_usage amp scale_dtype quant_block_list
    regex_config enable_norm_bias_tuning
    gradient_accumulate_steps not_use_best_mse dynamic_max_gap lr_scheduler sampler model_dtype act_bits
    act_data_type act_dynamic act_sym act_group_size provider
    config_groups ignore quantization_status global_compression_ratio kv_cache_scheme kv_cache_quant_algo
    activation_scheme fmt weight_block_size dequantize scale_fmt expert_dtype ignored_layers activation_scale_ub
    weight_scheme moe_sparsity_config sparsity_config transform_config
    """.split()
)
_PACKINGS = {  # auto-round's name -> layout
    "auto_round": "gptq_v2", "auto_round:gptq": "gptq", "auto_round:auto_gptq": "gptq", "auto_round:awq": "awq",
    "auto_round:auto_awq": "awq", "auto_round:gptq_v2": "gptq_v2", "auto_round:gptqmodel": "gptq_v2",
}  # fmt: skip
# Parameters of quantised activations, which Pellucid quantises in its own way.
_UNUSED = re.compile(
    r".+\.(input|output|activation|q|k|v|kv|experts\.\w+_proj_(activation|input))_(scale|zero_point|global_scale)"
    r"(_inv|_ub)?"
)
_STACK = re.compile(r".+\.experts\.\w+_proj")  # all experts' matrices in one tensor
_FLOATS = ("F16", "BF16", "F32")
_SCALES = (*_FLOATS, "F8_E8M0", "U8")
_SCALED = ("weight_scale", "weight_zero_point")


@dataclass
class Quantised:
    """What `join` found, by the folder's tensor names."""

    ordered: dict[str, Joined] = field(default_factory=dict)  # matrices with their columns in another order
    names: set[str] = field(default_factory=set)  # all matrices that are quantised
    floats: dict[str, Tensor] = field(default_factory=dict)  # of matrices in INT4 and Q8_0: the same in F32
    widened: set[str] = field(default_factory=set)  # matrices in FP8, as float32
    reasons: dict[str, str] = field(default_factory=dict)  # matrices of integers that became F32 -> why
    biases: dict[str, bool] = field(default_factory=dict)  # of quantised matrices -> whether all values are zero
    method: str = ""


def join(folder: ModelFile, prefix: str) -> Quantised:
    """Replaces the tensors of each quantised matrix of a folder by one. prefix: of the text model's configuration.

    Raises UnsupportedModelError, ModelFileError.
    """
    where = next((p for p in ("config.", prefix) if folder.get_any(f"{p}quantization_config", None)), None)
    old = next((p for p in ("config.", prefix) if folder.get_any(f"{p}compression_config", None)), None)
    if where is None and old is None:
        return Quantised()
    key = f"{where}quantization_config" if where is not None else f"{old}compression_config"
    return _Reader(folder, key).run()


class _Reader:
    def __init__(self, folder: ModelFile, key: str) -> None:
        self.folder, self.key = folder, key
        self.table = folder.get_table(key)
        self.found = Quantised()
        self.layout = ""
        self.bits: int | None = None
        self.group: int | None = None  # columns; -1: all
        self.block: tuple[int, int] | None = None  # of FP8
        self.default = False  # FP8 may have the blocks that transformers assumes
        self.mixed = ""  # the key that gives some matrices their own bits and groups
        self.ordered = ""  # why matrices have an index of groups
        self.asymmetric = False  # each matrix has zero points
        self.floats = False  # it is allowed that no matrix is quantised
        self.small = False  # some matrices have 4 bits

    def run(self) -> Quantised:
        known = "compressed-tensors" if "config_groups" in self.table else "unknown"
        method = self.folder.get_str(f"{self.key}.quant_method", known)
        name = method.removeprefix("intel/").lower()
        read: dict[str, Callable[[], str]] = {
            "gptq": self._gptq, "awq": self._awq, "auto-round": self._auto_round, "compressed-tensors": self._groups,
            "fp8": self._fp8, "fbgemm_fp8": self._fp8, "mxfp8": self._fp8,
        }  # fmt: skip
        if name not in read:
            raise UnsupportedModelError(
                feature=f"{self.key} (quant_method {method!r})",
                supported=f"folders in F32, F16 and BF16, {_METHODS} folders; else {_HINT}",
            )
        for one in ("modules_to_not_convert", "ignore", "ignored_layers"):
            self.folder.get_list(f"{self.key}.{one}", None, of=str)
        self.found.method = read[name]()
        for one, value in self.table.items():
            if one not in _HARMLESS and value not in (None, False, "", [], {}, 0):
                raise self.folder.refuse(f"{self.key}.{one}")
        self._join_all()
        return self.found

    # -- quantization_config ---------------------------------------------------------------------------------------

    def _only(self, key: str, allowed: tuple[Any, ...], default: Any) -> Any:
        """A key's value, which must be one of those that are supported."""
        value = self.folder.get_any(f"{self.key}.{key}", default)
        if not any(value == one and type(value) is type(one) for one in allowed):
            supported = ", ".join("null" if one is None else str(one) for one in allowed)
            raise self.folder.refuse(f"{self.key}.{key}", f"{supported}; else {_HINT}")
        return value

    def _sizes(self, bits: tuple[int, ...]) -> None:
        wanted = self.folder.get_int(f"{self.key}.bits")
        if wanted not in bits:
            supported = " and ".join(str(n) for n in bits)
            raise self.folder.refuse(f"{self.key}.bits", f"{supported} bits; else {_HINT}")
        self.bits = wanted
        self.group = self.folder.get_int(f"{self.key}.group_size", 128, min=-1, max=1 << 24)
        if self.group == 0:
            raise self.folder.fail(f"{self.key}.group_size", "it is 0", "-1, or 1 and more")

    def _gptq(self) -> str:
        self._sizes((4, 8))
        form = self.folder.get_str(f"{self.key}.checkpoint_format", self.folder.get_str(f"{self.key}.format", "gptq"))
        if form.lower() not in ("gptq", "gptq_v2"):
            key = "checkpoint_format" if "checkpoint_format" in self.table else "format"
            raise self.folder.refuse(f"{self.key}.{key}", f"gptq, gptq_v2; else {_HINT}")
        self._only("is_marlin_format", (None, False), None)
        self._only("pack_dtype", (None, "int32"), None)
        self.layout = form.lower()
        self.ordered = "desc_act is true" if self.folder.get_bool(f"{self.key}.desc_act", False) else ""
        self.folder.get_bool(f"{self.key}.sym", True)
        self.mixed = "dynamic" if self.folder.get_table(f"{self.key}.dynamic", None) else ""
        return "GPTQ"

    def _awq(self) -> str:
        self._sizes((4,))
        key = "version" if self.table.get("version") is not None else "format"
        if self.folder.get_str(f"{self.key}.{key}", "gemm").lower() != "gemm":
            raise self.folder.refuse(f"{self.key}.{key}", f"gemm; else {_HINT}")
        self._only("pack_dtype", (None, "int32"), None)
        self.folder.get_bool(f"{self.key}.zero_point", True)
        self.mixed = "dynamic" if self.folder.get_table(f"{self.key}.dynamic", None) else ""
        self.layout = "awq"
        return "AWQ"

    def _auto_round(self) -> str:
        packing = self.folder.get_str(f"{self.key}.packing_format", "auto_round:gptq")
        if packing not in _PACKINGS:
            raise self.folder.refuse(f"{self.key}.packing_format", f"{', '.join(_PACKINGS)}; else {_HINT}")
        self._only("data_type", ("int", None), None)
        self.layout = _PACKINGS[packing]
        self._sizes((4, 8) if self.layout != "awq" else (4,))
        self.folder.get_bool(f"{self.key}.sym", True)
        self.mixed = "extra_config" if self.folder.get_table(f"{self.key}.extra_config", None) else ""
        return "AutoRound"

    def _fp8(self) -> str:
        self._only("fmt", (None, "e4m3"), None)
        self._only("expert_dtype", (None, "fp8"), None)
        self.block = self._block(f"{self.key}.weight_block_size")
        self.default = "weight_block_size" not in self.table and str(self.table.get("quant_method")).lower() == "fp8"
        self.layout = "fp8"
        return "FP8"

    def _block(self, key: str) -> tuple[int, int] | None:
        """Rows and columns of FP8's blocks: [128, 128] or, in older folders, "128x128"."""
        value = self.folder.get_any(key, None)
        match = re.fullmatch(r"(\d{1,8})x(\d{1,8})", value) if isinstance(value, str) else None
        sizes = [int(match[1]), int(match[2])] if match else self.folder.get_list(key, None, of=int)
        if sizes is None:
            return None
        if len(sizes) != 2 or min(sizes) < 1 or max(sizes) > 1 << 24:
            raise self.folder.fail(key, f"it is {value}", "two sizes of at least 1")
        return sizes[0], sizes[1]

    def _groups(self) -> str:
        """compressed-tensors: the settings of each group of matrices. Tensors determine which group a matrix belongs
        to."""
        for part in ("sparsity_config", "transform_config"):
            table = self.folder.get_table(f"{self.key}.{part}", None) or {}
            dense = part == "sparsity_config" and table.get("format", "dense") in ("dense", None)
            if table and not dense and any(value not in (None, {}, []) for value in table.values()):
                raise UnsupportedModelError(feature=f"{self.key}.{part}", supported=_HINT)
        groups = self.folder.get_table(f"{self.key}.config_groups")
        cache = self.folder.get_table(f"{self.key}.kv_cache_scheme", None)
        if not groups and not cache:
            raise self.folder.fail(f"{self.key}.config_groups", "it is empty", "a group of matrices")
        self.floats, symmetric = True, False
        for name in groups:
            key = f"{self.key}.config_groups.{name}"
            self.folder.get_table(key)
            self.folder.get_table(f"{key}.weights", None)
            if not groups[name].get("weights"):
                continue
            self.floats = False
            kind = self.folder.get_str(f"{key}.weights.type", "int")
            bits = self.folder.get_int(f"{key}.weights.num_bits", 8)
            if (kind, bits) not in (("int", 4), ("int", 8), ("float", 8)):
                raise UnsupportedModelError(
                    feature=f"{key}.weights: {kind} of {bits} bits",
                    supported=f"int of 4 and 8, float of 8; else {_HINT}",
                )
            self.small = self.small or bits == 4
            symmetric |= self.folder.get_bool(f"{key}.weights.symmetric", True) or kind == "float"
            size = self.folder.get_int(f"{key}.weights.group_size", None, min=-1, max=1 << 24)
            if len(groups) == 1 and size is not None and size != 0:
                self.group = size
            if kind == "float":
                self.block = self._block(f"{key}.weights.block_structure") or self.block
            order = self.folder.get_any(f"{key}.weights.actorder", None)
            # some matrices of a folder may have no index; an index of -1 means none, too
            if order in ("group", "dynamic", True) and not any(
                n.endswith(".weight_g_idx") for n in self.folder.tensors
            ):
                self.ordered = "actorder is group"
        self.asymmetric = not symmetric and not self.floats
        known = (None, "pack-quantized", "int-quantized", "float-quantized", "naive-quantized", "dense",
                 "mixed-precision", "fakequant")  # fmt: skip
        self._only("format", known, None)
        self.layout = "compressed-tensors"
        return "compressed-tensors"

    # -- tensors ---------------------------------------------------------------------------------------------------

    def _join_all(self) -> None:
        tensors = self.folder.tensors
        count = 0
        for name in [*tensors]:
            stem, _, kind = name.rpartition(".")
            if kind == "qweight" and self.layout in ("gptq", "gptq_v2"):
                self._put(stem, self._of_gptq(stem), "qweight", "qzeros", "scales", "g_idx")
            elif kind == "qweight" and self.layout == "awq":
                self._put(stem, self._of_awq(stem), "qweight", "qzeros", "scales")
            elif kind == "weight_packed" and self.layout == "compressed-tensors":
                self._put(stem, self._of_packed(stem), "weight_packed", "weight_shape", "weight_g_idx", *_SCALED)
            elif kind == "weight" and tensors[name].type == "I8" and self.layout == "compressed-tensors":
                self._put(stem, self._of_int8(stem), "weight", *_SCALED)
            elif kind == "weight" and tensors[name].type == "F8_E4M3" and self.layout in ("compressed-tensors", "fp8"):
                scale = "weight_scale_inv" if f"{stem}.weight_scale_inv" in tensors else "weight_scale"
                zero = tensors.get(f"{stem}.weight_zero_point")  # in some exports
                nothing = ("weight_zero_point",) if zero is not None and not zero.data.view(np.uint8).any() else ()
                self._put(stem, Joined(self._of_fp8(stem, scale)), "weight", scale, *nothing)
                self.found.widened.add(name)
            elif _STACK.fullmatch(name) and tensors[name].type == "F8_E4M3" and self.layout == "fp8":
                tensors[name] = self._of_stack(name)
                del tensors[f"{name}_scale_inv"]
                self.found.names.add(name)
                self.found.widened.add(name)
            else:
                continue
            count += 1
        if not count and not self.floats:
            raise ModelFileError(
                "no tensor is quantised as it says", file=self.folder.metadata_file, field=self.key,
                expected=f"tensors of {self.found.method}",
            )  # fmt: skip
        for name in [*tensors]:
            if _UNUSED.fullmatch(name) and name.rpartition(".")[2] not in _SCALED:
                del tensors[name]

    def _put(self, stem: str, joined: Joined, *parts: str) -> None:
        """parts: the tensors that it was made of; others of the same matrix stay, and are refused as unread."""
        tensors, name, bias = self.folder.tensors, f"{stem}.weight", f"{stem}.bias"
        if bias in tensors and tensors[bias].type in _FLOATS:
            # AutoGPTQ's modules always have one, even if the model does not (its issue 555); others may, too
            self.found.biases[bias] = not numbers(tensors[bias]).any()
        if name in tensors and "weight" not in parts:
            raise self._fail(tensors[name], "a second tensor for the same weight")
        for part in parts:
            tensors.pop(f"{stem}.{part}", None)
        tensors[name] = joined.tensor
        self.found.names.add(name)
        if joined.why:
            self.found.reasons[name] = joined.why
        if joined.plain is not None:
            self.found.floats[name] = joined.plain
        if joined.order is not None:
            self.found.ordered[name] = joined

    def _fail(self, t: Tensor, message: str, expected: str | None = None) -> ModelFileError:
        return ModelFileError(message, file=t.file, field=t.name, offset=t.offset, expected=expected)

    def _need(self, name: str, types: tuple[str, ...], dims: int | None = 2) -> Tensor:
        t = self.folder.tensors.get(name)
        if t is None:
            raise ModelFileError(
                "no such tensor", file=self.folder.path, field=name, expected=f"one of {', '.join(types)}"
            )
        if t.type not in types:
            raise self._fail(t, f"is {t.type}", " or ".join(types))
        if (dims is not None and len(t.shape) != dims) or 0 in t.shape:
            raise self._fail(t, f"has shape {t.shape}", f"{dims} dimensions")
        return t

    def _shaped(self, t: Tensor, shape: tuple[int, ...]) -> Tensor:
        if t.shape != shape:
            raise self._fail(t, f"has shape {t.shape}", f"shape {shape}")
        return t

    def _group_of(self, stem: str, k: int, groups: int, t: Tensor, index: str) -> npt.NDArray[np.int32]:
        """Each column's group: from the index, else from the group size. t: the tensor that determines their number."""
        g, values = self.folder.tensors.get(f"{stem}.{index}"), None
        if g is not None:
            g = self._shaped(self._need(g.name, ("I32", "I64"), 1), (k,))
            values = g.data.view(np.int32 if g.type == "I32" else np.int64)
            if self.layout == "compressed-tensors" and (values == -1).all():  # the modules' initial value: none
                values = None
        if g is not None and values is not None:
            if values.min() < 0 or values.max() >= groups:
                wrong = int(values.min() if values.min() < 0 else values.max())
                raise self._fail(g, f"has group {wrong}", f"0 to {groups - 1}, as {t.name} has {groups}")
            return values.astype(np.int32)
        if self.ordered:
            raise ModelFileError("no such tensor", file=self.folder.path, field=f"{stem}.{index}",
                                 expected=f"the group of each column, since {self.ordered}")  # fmt: skip
        size = self.group if self.group is not None else max(k // groups, 1)
        size = k if size == -1 else size
        if -(-k // size) != groups:
            if not self.mixed and self.group is not None:
                raise self._fail(t, f"has {groups} groups", f"{-(-k // size)}: groups of {size} of {k} columns")
            size = k // groups
            if size * groups != k:
                raise self._fail(t, f"has {groups} groups", f"a number that divides {k} columns")
        return (np.arange(k) // size).astype(np.int32)

    def _of_gptq(self, stem: str) -> Joined:
        q = self._need(f"{stem}.qweight", ("I32",))
        scales = self._need(f"{stem}.scales", _FLOATS)
        zeros = self._need(f"{stem}.qzeros", ("I32",))
        groups, n = scales.shape
        bits = self.bits or 4
        if self.mixed:
            bits = self._own_bits(stem, zeros.shape[1], n, bits, (4, 8))
        self._shaped(zeros, (groups, -(-n * bits // 32)))
        k = q.shape[0] * 32 // bits
        self._shaped(q, (q.shape[0], n))
        group = self._group_of(stem, k, groups, scales, "g_idx")

        def zero() -> Any:
            words = zeros.data.view(np.uint32)
            if self.layout == "gptq":  # stored as the zero point less one; with carries, as in gptqmodel
                words = words + np.uint32(0x11111111 if bits == 4 else 0x01010101)
            return _fields(words, bits).reshape(groups, -1)[:, :n].T

        return Integers(f"{stem}.weight", q, n, k, bits, 4 * n, 4, 32 // bits, 1, 0, group,
                        lambda: numbers(scales).T, zero).joined()  # fmt: skip

    def _own_bits(self, stem: str, words: int, n: int, bits: int, supported: tuple[int, ...]) -> int:
        """The bits of a matrix that may differ from the rest. words: for n columns; bits: of the rest."""
        if 32 * words % n or not 1 <= 32 * words // n <= 8:  # the shapes of the tensors then do not fit
            return bits
        found = 32 * words // n
        if found not in supported:
            raise UnsupportedModelError(
                feature=f"{self.key}.{self.mixed}: {found} bits of {stem}",
                supported=f"{' and '.join(str(b) for b in supported)} bits; else {_HINT}",
            )
        return found

    def _of_awq(self, stem: str) -> Joined:
        q = self._need(f"{stem}.qweight", ("I32",))
        scales = self._need(f"{stem}.scales", _FLOATS)
        zeros = self._need(f"{stem}.qzeros", ("I32",))
        (k, words), (groups, n) = q.shape, scales.shape
        if self.mixed:
            self._own_bits(stem, words, n, 4, (4,))
        self._shaped(scales, (groups, 8 * words))
        self._shaped(zeros, (groups, words))
        group = self._group_of(stem, k, groups, scales, "g_idx")

        def zero() -> Any:
            fields = _fields(zeros.data.view(np.uint32), 4).reshape(groups, words, 8)
            return fields[:, :, [0, 4, 1, 5, 2, 6, 3, 7]].reshape(groups, n).T

        return Integers(f"{stem}.weight", q, n, k, 4, 4 * words, 4, 1, 8, 0, group,
                        lambda: numbers(scales).T, zero).joined()  # fmt: skip

    def _of_packed(self, stem: str) -> Joined:
        q = self._need(f"{stem}.weight_packed", ("I32",))
        shape = self._shaped(self._need(f"{stem}.weight_shape", ("I64", "I32"), 1), (2,))
        n, k = (int(v) for v in shape.data.view(np.int64 if shape.type == "I64" else np.int32))
        scales = self._need(f"{stem}.weight_scale", _FLOATS, None)
        if n != q.shape[0] or not 0 < k < 1 << 31:
            raise self._fail(shape, f"says {(n, k)}", f"{q.shape[0]} rows, as {q.name} has")
        bits = next((b for b in (4, 8) if -(-k * b // 32) == q.shape[1]), 0)
        if not bits:
            raise self._fail(q, f"has shape {q.shape}", f"{-(-k // 8)} or {-(-k // 4)} words for {k} columns")
        scale, groups = self._scales(scales, n)
        group = self._group_of(stem, k, groups, scales, "weight_g_idx")
        zero: Callable[[], Any] = lambda: np.full((n, groups), 1 << (bits - 1), np.int16)  # noqa: E731
        if self._has_zero(stem):
            zeros = self._shaped(self._need(f"{stem}.weight_zero_point", ("I32",)), (-(-n * bits // 32), groups))

            def zero() -> Any:
                words = np.ascontiguousarray(zeros.data.view(np.uint32).reshape(zeros.shape).T)
                return _fields(words, bits).reshape(groups, -1)[:, :n].T

        return Integers(
            f"{stem}.weight", q, n, k, bits, 4, 4 * q.shape[1], 32 // bits, 1, 0, group, scale, zero
        ).joined()

    def _has_zero(self, stem: str) -> bool:
        name = f"{stem}.weight_zero_point"
        if name not in self.folder.tensors and self.asymmetric:
            raise ModelFileError("no such tensor", file=self.folder.path, field=name,
                                 expected="the zero points, since symmetric is false")  # fmt: skip
        return name in self.folder.tensors

    def _of_int8(self, stem: str) -> Joined:
        q = self._need(f"{stem}.weight", ("I8",))
        n, k = q.shape
        scales = self._need(f"{stem}.weight_scale", _FLOATS, None)
        scale, groups = self._scales(scales, n)
        group = self._group_of(stem, k, groups, scales, "weight_g_idx")
        zero: Callable[[], Any] = lambda: np.full((n, groups), 128, np.int16)  # noqa: E731
        if self._has_zero(stem):
            zeros = self._need(f"{stem}.weight_zero_point", ("I8",), None)
            if math.prod(zeros.shape) != 1 and zeros.shape not in ((n, groups), (n,) if groups == 1 else ()):
                raise self._fail(zeros, f"has shape {zeros.shape}", f"shape {(n, groups)}")

            def zero() -> Any:
                values = zeros.data.view(np.int8).astype(np.int16) + 128
                return np.broadcast_to(values.reshape(-1, groups) if values.size > 1 else values, (n, groups))

        if self.small and k % 8 == 0 and _are_nibbles(q.data.view(np.int8), zero() - 128):
            q = q._replace(data=nibbles(q.data, n, k))
            return Integers(f"{stem}.weight", q, n, k, 4, 4, k // 2, 8, 1, 0, group, scale,
                            lambda: zero() - 120).joined()  # fmt: skip
        return Integers(f"{stem}.weight", q, n, k, 8, k, k, k, 1, 0x80, group, scale, zero).joined()

    def _scales(self, t: Tensor, n: int) -> tuple[Callable[[], Any], int]:
        """Scales (rows, groups) and the number of groups; one scale stands for all rows."""
        if math.prod(t.shape) == 1:
            return (lambda: np.broadcast_to(numbers(t).reshape(1, 1), (n, 1))), 1
        groups = t.shape[1] if len(t.shape) == 2 else 1
        if len(t.shape) not in (1, 2) or t.shape[0] != n:
            raise self._fail(t, f"has shape {t.shape}", f"{n} rows")
        return (lambda: numbers(t).reshape(n, groups)), groups

    def _of_fp8(self, stem: str, scale: str) -> Tensor:
        weight = self._need(f"{stem}.weight", ("F8_E4M3",))
        return fp8.matrix(weight, self._need(f"{stem}.{scale}", _SCALES, None), self.block, self.default)

    def _of_stack(self, name: str) -> Tensor:
        """Experts in FP8 in one tensor, as in transformers 5."""
        weight = self._need(name, ("F8_E4M3",), 3)
        return fp8.stack(weight, self._need(f"{name}_scale_inv", _SCALES, None), self.block, self.default)


def _are_nibbles(codes: npt.NDArray[np.int8], zero: npt.NDArray[np.int16]) -> bool:
    """Whether signed bytes are 4-bit numbers."""
    return bool(codes.min() >= -8 and codes.max() <= 7 and zero.min() >= -8 and zero.max() <= 7)


def _fields(words: npt.NDArray[np.uint32], bits: int) -> npt.NDArray[np.int16]:
    """The fields of 32-bit words, the lowest first: (..., n) -> (..., n * 32 / bits)."""
    shifts = np.arange(0, 32, bits, dtype=np.uint32)
    return (words[..., None] >> shifts & np.uint32((1 << bits) - 1)).astype(np.int16).reshape(*words.shape[:-1], -1)
