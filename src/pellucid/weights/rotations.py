"""Converts the rotary positions of a Hugging Face folder to GGUF's keys and tensors."""

from __future__ import annotations

from typing import Any

from pellucid import rotary
from pellucid.errors import shown
from pellucid.folder import Folder, Settings

Factors = dict[str, list[float]]  # GGUF's name -> the divisor of each frequency

_KINDS = "default, linear, llama3, yarn, longrope, dynamic"
_LIMITS = {"min": 1e-6, "max": 1e6}
_STILL = 1e30  # GGUF's factor of a pair that is not rotated


def read(c: Settings, arch: str, table: Folder, metadata: dict[str, Any], aliases: dict[str, str]) -> Factors:
    """Reads "rope_parameters" (newer) or "rope_scaling", and adds to the metadata."""
    tables = {key: given for key in ("rope_parameters", "rope_scaling") if (given := c.get_table(key, None))}
    if len(tables) == 2 and tables["rope_parameters"] != tables["rope_scaling"]:
        raise c.fail("rope_scaling", "rope_parameters is also there, with other values", "one of the two")
    c.get_int("original_max_position_embeddings", None, min=1, max=1 << 24)
    reader = _Reader(c, arch, table, metadata, aliases)
    if not tables:
        reader.partial("")
    for key in tables:
        if not table.ropes:
            reader.rotation(f"{key}.")
        elif key == "rope_scaling":
            if c.get_any("rope_scaling.type", None) is not None and c.get_any("rope_scaling.rope_type", None) is None:
                raise c.refuse("rope_scaling.type", "rope_type in its place")  # transformers ignores the older name
            reader.rotation("rope_scaling.")
        else:
            if c.get_table(f"{key}.full_attention", None) is not None:
                reader.rotation(f"{key}.full_attention.")
            if c.get_table(f"{key}.sliding_attention", None) is not None:
                reader.rotation(f"{key}.sliding_attention.", local=True)
            reader.check_table(f"{key}.")
    return reader.factors


class _Reader:
    def __init__(
        self, c: Settings, arch: str, table: Folder, metadata: dict[str, Any], aliases: dict[str, str]
    ) -> None:
        self.c, self.name, self.table = c, f"{arch}.rope", table
        self.metadata, self.aliases = metadata, aliases
        self.factors: Factors = {}
        given: Any = metadata.get(f"{self.name}.freq_base")  # from any key; the architecture refuses a value below 1
        self.base = float(given) if type(given) in (int, float) and 1 <= given < 1e300 else 10000.0

    def rotation(self, where: str, local: bool = False) -> None:
        """Reads one rotation, from the table `where`. local: of the layers with a window, which is not scaled."""
        c = self.c
        base = c.get_float(f"{where}rope_theta", None, min=1.0)
        if base is not None:
            self.put(f"freq_base{'_swa' if local else ''}", base, f"{where}rope_theta")
        old = c.get_str(f"{where}type", None)
        given = "type" if old is not None and c.get_any(f"{where}rope_type", None) is None else "rope_type"
        kind = c.get_str(where + given, "default")
        kind = self.table.older_rotations.get(kind, kind)
        if self.table.proportional and kind != "default":
            if local or kind != "proportional":
                raise c.refuse(where + given, "default" if local else "default, proportional")
            self.proportional(where)
            return self.check_table(where)
        width = self.partial(where)
        base = base or self.base
        if kind == "linear" and not local:
            self.put("scaling.type", "linear", where + given)
            self.put("scaling.factor", c.get_float(f"{where}factor", **_LIMITS), f"{where}factor")
        elif kind == "llama3" and not local:
            self.llama3(where, width, base)
        elif kind == "yarn" and not local:
            self.yarn(where, width, base)
        elif kind == "longrope" and not local:
            self.longrope(where, width)
        elif kind == "dynamic" and not local:
            self.dynamic(where, width, base)
        elif kind != "default":
            raise c.refuse(where + given, "default" if local else _KINDS)
        if self.table.mrope:  # the position of text is the same on all axes
            sections = c.get_list(f"{where}mrope_section", None, of=int)
            if sections is not None:
                if any(not 0 <= one < 1 << 31 for one in sections):  # sections beyond the pairs have no effect
                    raise c.fail(
                        f"{where}mrope_section", f"it is {shown(sections)}", "numbers of 31 bits, not negative"
                    )
                self.put("dimension_sections", (sections + [0] * 4)[:4], f"{where}mrope_section")  # GGUF has four
            c.get_bool(f"{where}mrope_interleaved", False)
        self.check_table(where)

    def put(self, name: str, value: Any, key: str) -> None:
        self.metadata[f"{self.name}.{name}"] = value
        self.aliases[f"{self.name}.{name}"] = f"{self.c.prefix}{key}"

    def check_table(self, where: str) -> None:
        """Refuses the first key of a table that was not read."""
        unread = self.c.folder.unread(self.c.prefix + where)
        if unread:
            raise self.c.refuse(unread[0].removeprefix(self.c.prefix))

    def partial(self, where: str) -> int:
        """The rotated columns of a head."""
        c = self.c
        if self.table.rotated:
            return self.part_of_parts(where)
        heads = c.get_int(self.table.heads, min=1, max=4096)
        whole = c.get_int(self.table.width, min=1, max=1 << 24)
        width = int(c.get_int("head_dim", max(whole // heads, 1), min=1, max=4096))
        if width > 4096:
            raise c.fail(self.table.width, f"heads have {width} columns", "at most 4096")
        if self.table.partial is None:
            for place in {where, ""}:
                if c.get_float(f"{place}partial_rotary_factor", 1.0) != 1.0:
                    raise c.refuse(f"{place}partial_rotary_factor", "1.0")
            return width
        part, key = self.table.partial, self.table.part
        for place in (self.table.part, f"{where}partial_rotary_factor"):  # the key in the table takes precedence
            given = c.get_float(place, None, min=1e-3, max=1.0)
            if given is not None:
                part, key = given, place
        n = int(width * part)
        self.put("dimension_count", n, key)
        return n

    def part_of_parts(self, where: str) -> int:
        """The rotated columns of a head, if several keys give the parts of a head's width."""
        c = self.c
        parts = [c.get_int(key, min=1, max=4096) for key in self.table.rotated]
        c.get_int("head_dim", None, min=1)  # transformers derives it as well
        for place in {where, ""}:
            given = c.get_float(f"{place}partial_rotary_factor", parts[0] / sum(parts), min=0.0, max=1.0)
            if int(sum(parts) * given) != parts[0]:
                raise c.refuse(f"{place}partial_rotary_factor", f"{parts[0] / sum(parts):g}")
        self.put("dimension_count", parts[0], self.table.rotated[0])
        return int(parts[0])

    def places(self, where: str) -> tuple[str, ...]:
        """Where original_max_position_embeddings may be: transformers reads the key next to the table unless there is
        a table for each kind of layer."""
        return (where,) if self.table.ropes else (where, "")

    def original(self, where: str) -> int:
        """The context that the model was first trained with. The key next to the table takes precedence."""
        found = self.c.get_int("max_position_embeddings", min=1, max=1 << 24)
        for place in self.places(where):
            found = self.c.get_int(f"{place}original_max_position_embeddings", found, min=1, max=1 << 24)
        return int(found)

    def factor(self, where: str, original: int) -> float:
        """The factor of the context; if it is missing, the ratio of the present context to the original one."""
        c, key = self.c, "original_max_position_embeddings"
        if c.get_any(f"{where}factor", None) is None and any(
            c.get_any(f"{at}{key}", None) for at in self.places(where)
        ):
            return float(c.get_int("max_position_embeddings", min=1, max=1 << 24) / original)
        return float(c.get_float(f"{where}factor", **_LIMITS))

    def llama3(self, where: str, width: int, base: float) -> None:
        c = self.c
        factor, low, high = (
            c.get_float(f"{where}{key}", **_LIMITS) for key in ("factor", "low_freq_factor", "high_freq_factor")
        )
        if high <= low:
            raise c.fail(f"{where}high_freq_factor", f"it is {high}", f"more than low_freq_factor ({low})")
        factors = rotary.llama3(width, base, factor, low, high, self.original(where))
        self.factors["rope_freqs.weight"] = factors

    def proportional(self, where: str) -> None:
        """The first pairs are rotated at the frequencies of the whole head, the others are not (Gemma 4)."""
        c, width = self.c, self.metadata.get(self.name.removesuffix("rope") + "attention.key_length")
        if type(width) is not int or not 2 <= width <= 4096:
            raise c.fail("head_dim", f"heads have {width!r:.40} columns", "2 to 4096")
        n = int(c.get_float(f"{where}partial_rotary_factor", 1.0, min=0.0, max=1.0) * width // 2)
        factor = c.get_float(f"{where}factor", 1.0, **_LIMITS)
        self.factors["rope_freqs.weight"] = [factor] * n + [_STILL] * (width // 2 - n)

    def yarn(self, where: str, width: int, base: float) -> None:
        c, original = self.c, self.original(where)
        factor = self.factor(where, original)
        fast = c.get_float(f"{where}beta_fast", 32.0, **_LIMITS)
        slow = c.get_float(f"{where}beta_slow", 1.0, **_LIMITS)
        if fast <= slow:
            raise c.fail(f"{where}beta_fast", f"it is {fast}", f"more than beta_slow ({slow})")
        if base <= 1:
            raise c.fail(f"{where}rope_theta", f"it is {base}", "more than 1")
        whole = c.get_bool(f"{where}truncate", True)
        if self.table.ropes and not whole:  # transformers does not look for the key there
            raise c.refuse(f"{where}truncate", "true")
        if not self.table.ropes and "truncate" in c.get_table(where.rstrip(".")):  # null means false
            whole = c.get_bool(f"{where}truncate", False)
        self.factors["rope_freqs.weight"] = rotary.yarn(width, base, factor, original, fast, slow, whole)
        weight, weight_all = (
            c.get_float(f"{where}{key}", 0.0, min=0.0, max=1e3) for key in ("mscale", "mscale_all_dim")
        )
        scale = rotary.yarn_scale(factor)
        if weight and weight_all:
            scale = rotary.yarn_scale(factor, weight) / rotary.yarn_scale(factor, weight_all)
        self.scale(where, scale)
        # The same in a GGUF file's form, for making/keys.py.
        given = {f"yarn_{key}": c.get_any(f"{where}{key}", None) for key in ("beta_fast", "beta_slow")}
        own = {"type": "yarn", "factor": factor, "original_context_length": original, **given}
        self.metadata["pellucid.yarn"] = own
        self.metadata["pellucid.yarn_weight"] = weight_all

    def longrope(self, where: str, width: int) -> None:
        c, original = self.c, self.original(where)
        factor = self.factor(where, original)
        for key in ("short", "long"):
            values = c.get_list(f"{where}{key}_factor", of=float, length=width // 2)
            for value in values:
                if not _LIMITS["min"] <= value <= _LIMITS["max"]:
                    expected = f"{_LIMITS['min']:g} to {_LIMITS['max']:g}"
                    raise c.fail(f"{where}{key}_factor", f"it has {shown(value)}", expected)
            self.factors[f"rope_factors_{key}.weight"] = values
        self.put("scaling.original_context_length", original, f"{where}original_max_position_embeddings")
        if self.table.mscales:
            scale = c.get_float(f"{where}short_mscale", **_LIMITS)
            if c.get_float(f"{where}long_mscale", **_LIMITS) != scale:
                raise c.refuse(f"{where}long_mscale", f"{scale:g}, as short_mscale is")
            self.put("scaling.attn_factor", scale, f"{where}short_mscale")
            return
        self.scale(where, rotary.longrope_scale(factor, original) if original > 1 else 1.0)

    def scale(self, where: str, default: float) -> None:
        given = self.c.get_any(f"{where}attention_factor", None) is not None
        value = self.c.get_float(f"{where}attention_factor", **_LIMITS) if given else default
        self.put("scaling.attn_factor", value, f"{where}attention_factor")

    def dynamic(self, where: str, width: int, base: float) -> None:
        """No scaling up to max_position_embeddings, where contexts end in Pellucid. Hunyuan's `alpha` changes the
        base."""
        self.c.get_float(f"{where}factor", 1.0, **_LIMITS)
        if not self.table.alpha:
            return
        for key in ("beta_fast", "beta_slow", "mscale", "mscale_all_dim"):  # of YaRN, which is not used here
            self.c.get_float(f"{where}{key}", None)
        alpha = self.c.get_float(f"{where}alpha", 1.0, **_LIMITS)
        if alpha != 1.0:
            if width == 2:
                raise self.c.refuse(f"{where}alpha", "1 if heads have two columns")
            self.put("freq_base", base * alpha ** (width / (width - 2)), f"{where}alpha")
