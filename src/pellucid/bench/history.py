"""Stored documents of `pellucid bench`: writing, reading and comparing them."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pellucid.bench import moments
from pellucid.errors import one_line
from pellucid.weights.writer import whole_file

__all__ = ["SCHEMA", "Document", "commit", "compare", "read", "rows", "save", "target"]

SCHEMA = 2
MOST_BYTES = 16 << 20  # of a document; a real one has a hundredth of it
_NAME = 100  # characters shown of a text from another document

Document = dict[str, Any]

# Fields that must agree for two documents to differ only in their version -> their names in messages.
_MACHINE = {
    "cpu": "processor",
    "processor": "processor",
    "system": "system",
    "threads": "threads",
    "isa": "instruction set",
    "huge_pages": "2 MB pages",
}
_MODEL = {
    "name": "model",
    "architecture": "architecture",
    "quantisation": "weights",
    "file_bytes": "bytes of the model file",
    "kv": "type of keys and values",
    "precision": "precision",
}


def commit() -> str:
    """The commit of the checkout that this runs from, with a + if the program differs from it; "" if there is none."""
    root = Path(__file__).resolve().parents[3]
    if not (root / ".git").exists():
        return ""

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True)
        return done.stdout.strip() if done.returncode == 0 else ""

    try:
        found = git("rev-parse", "--short=10", "HEAD")
        changed = git("status", "--porcelain", "-uno", "--", "src", "csrc", "setup.py")
    except OSError:  # git is not installed
        return ""
    return found + ("+" if found and changed else "")


# ---- files ---------------------------------------------------------------------------------------------------------


def target(path: str | Path) -> Path:
    """The folder or file that `save` will write to. Raises ValueError if it cannot."""
    if not str(path):
        raise ValueError("expected a file or folder")
    found = Path(path)
    folder = found if found.is_dir() or str(path).endswith("/") else found.parent
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder")
    if not os.access(folder, os.W_OK):
        raise ValueError(f"{folder} is not writable")
    if found.exists() and not found.is_dir() and not found.is_file():
        raise ValueError(f"{found} is neither a file nor a folder")
    return found


def save(doc: Document, path: str | Path) -> Path:
    """Writes a document to a file, which is replaced as a whole, or into a folder under a name made of the version, the
    commit, the machine and the model; without the folders of this machine, since it may be read elsewhere. -> the file.
    Raises ValueError as `target` does, ModelFileError if the file cannot be written."""
    path = target(path)
    machine = {key: value for key, value in doc["machine"].items() if key != "tuning_why"}
    doc = {**doc, "machine": machine, "model": {**doc["model"], "path": Path(doc["model"]["path"]).name}}
    if path.is_dir():
        m, model = doc["machine"], Path(doc["model"]["path"])
        # Virtual machines give different processors one name; family, model and stepping distinguish them.
        numbers = "-".join(re.findall(r"0x[0-9a-f]+|\d+", m["processor"]))
        words = (doc["pellucid"], doc["commit"], m["cpu"], numbers, m["isa"], f"{m['threads']}t", model.stem)
        path = path / (re.sub(r"[^a-z0-9.+]+", "-", "-".join(filter(None, words)).lower())[:200] + ".json")
    text = json.dumps(doc, indent=2, allow_nan=False) + "\n"
    with whole_file(str(path)) as file:
        file.write(text.encode())
    return path


def read(path: str | Path) -> Document:
    """Reads a document that `pellucid bench` wrote. Raises ValueError that describes the fault in the file; OSError.

    Everything that a comparison uses is checked, since the file may contain anything.
    """
    with open(path, "rb") as file:
        data = file.read(MOST_BYTES + 1)
    if len(data) > MOST_BYTES:
        raise ValueError(f"{path}: expected a document of at most {MOST_BYTES} bytes")
    try:
        doc = json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not a JSON document: {one_line(str(error), _NAME)}") from None
    if not isinstance(doc, dict) or type(doc.get("schema")) is not int or doc["schema"] != SCHEMA:
        raise ValueError(f'{path} is not a document of this version\'s pellucid bench: expected "schema": {SCHEMA}')
    fields = _Fields(str(path))
    for key in ("pellucid", "commit", "date"):
        fields.text(doc, key, key)
    for part, names, numbers in (
        ("machine", _MACHINE, {"threads": int, "huge_pages": bool}),
        ("model", _MODEL, {"file_bytes": int}),
    ):
        given = fields.object(doc, part, part)
        for key in names:
            if key in numbers:
                fields.check(given, key, f"{part}.{key}", *_KINDS[numbers[key]])
            else:
                fields.text(given, key, f"{part}.{key}")
    tuning = fields.object(doc["machine"], "tuning", "machine.tuning")
    for key in tuning:
        fields.check(tuning, key, f"machine.tuning.{one_line(key, _NAME)}", "an integer", lambda x: type(x) is int)
    for kind, limit in fields.object(doc, "limits", "limits").items():
        fields.median(limit, f"limits.{one_line(kind, _NAME)}")
    fields.check(doc, "phases", "phases", "a list", lambda x: isinstance(x, list))
    seen = set()
    for i, phase in enumerate(doc["phases"]):
        at = f"phases[{i}]"
        fields.expect(isinstance(phase, dict), at, "an object")
        name = fields.text(phase, "name", f"{at}.name")
        fields.expect(name not in seen, f"{at}.name", "a name that no phase before it has")
        seen.add(name)
        fields.median(phase.get("tokens_per_second"), f"{at}.tokens_per_second")
        if phase.get("limit") is not None:
            limit = fields.object(phase, "limit", f"{at}.limit")
            fields.median(limit.get("fraction"), f"{at}.limit.fraction")
        groups = phase.setdefault("by_bandwidth", [])
        fields.expect(isinstance(groups, list), f"{at}.by_bandwidth", "a list")
        for j, group in enumerate(groups):
            fields.expect(isinstance(group, dict), f"{at}.by_bandwidth[{j}]", "an object")
            for key in _GROUP:
                fields.median(group.get(key), f"{at}.by_bandwidth[{j}].{key}")
    return doc


_GROUP = ("gb_per_second", "tokens_per_second", "fraction")
_KINDS: dict[type, tuple[str, Callable[[Any], bool]]] = {
    int: ("a positive integer", lambda x: type(x) is int and 0 < x < 1 << 63),
    bool: ("true or false", lambda x: isinstance(x, bool)),
}


class _Fields:
    """Checks of a document from a file; each raises ValueError naming the file and the field."""

    def __init__(self, path: str) -> None:
        self.path = path

    def expect(self, good: bool, field: str, what: str) -> None:
        if not good:
            raise ValueError(f"{self.path}: {field}: expected {what}")

    def check(self, given: Document, key: str, field: str, what: str, good: Callable[[Any], bool]) -> None:
        self.expect(good(given.get(key)), field, what)

    def text(self, given: Document, key: str, field: str) -> str:
        value = given.get(key)
        self.expect(isinstance(value, str), field, "a string")
        return str(value)

    def object(self, given: Document, key: str, field: str) -> Document:
        value = given.get(key)
        self.expect(isinstance(value, dict), field, "an object")
        assert isinstance(value, dict)
        return value

    def median(self, spread: Any, field: str) -> None:
        """A spread whose median is a positive number of ordinary size, so that ratios of two are finite."""
        median = spread.get("median") if isinstance(spread, dict) else None
        number = isinstance(median, (int, float)) and not isinstance(median, bool)
        good = number and 1e-30 < median < 1e30  # type: ignore[operator]
        self.expect(good, f"{field}.median", "a positive number")


# ---- comparing -----------------------------------------------------------------------------------------------------


def compare(doc: Document, earlier: Document) -> Document:
    """Ratios new / old of the medians in both documents.

    phases: {name: {"tokens_per_second", "fraction" of the limit, "by_bandwidth"}}; fraction: None for a phase without a
    limit; by_bandwidth: the ratios of runs at about the same bandwidth, if both have some. limits: {kind: ratio}.
    differs: what else differs, {name: [old, new]}. missing, added: phases that only the earlier or only this one has.
    """
    old = {p["name"]: p for p in earlier["phases"]}
    new = {p["name"]: p for p in doc["phases"]}
    return {
        "with": {key: earlier[key] for key in ("pellucid", "commit", "date")},
        "differs": _differences(doc, earlier),
        "phases": {name: _ratios(p, old[name]) for name, p in new.items() if name in old},
        "missing": [name for name in old if name not in new],
        "added": [name for name in new if name not in old],
        "limits": {
            kind: _ratio(x, earlier["limits"][kind]) for kind, x in doc["limits"].items() if kind in earlier["limits"]
        },
    }


def _ratios(new: Document, old: Document) -> Document:
    limits = new["limit"] and old.get("limit")
    alike = []
    for group in new.get("by_bandwidth", []):
        found = min(old["by_bandwidth"], key=lambda other: _apart(group, other), default=None)
        if found is not None and _apart(group, found) <= moments.WIDTH:
            read = {"gb_per_second": group["gb_per_second"]["median"]}
            alike.append(read | {key: _ratio(group[key], found[key]) for key in _GROUP[1:]})
    return {
        "tokens_per_second": _ratio(new["tokens_per_second"], old["tokens_per_second"]),
        "fraction": _ratio(new["limit"]["fraction"], old["limit"]["fraction"]) if limits else None,
        "by_bandwidth": alike,
    }


def _apart(a: Document, b: Document) -> float:
    """The factor between the bandwidths of two groups of runs, at least 1."""
    ratio = _ratio(a["gb_per_second"], b["gb_per_second"])
    return max(ratio, 1 / ratio)


def _ratio(new: Document, old: Document) -> float:
    ratio: float = new["median"] / old["median"]
    assert math.isfinite(ratio)
    return ratio


def _differences(doc: Document, earlier: Document) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {}
    for part, names in (("machine", _MACHINE), ("model", _MODEL)):
        for key, name in names.items():
            pair = [earlier[part][key], doc[part][key]]
            if pair[0] != pair[1]:
                found.setdefault(name, pair)  # a processor's name, or its numbers if the names agree
    old, new = earlier["machine"]["tuning"], doc["machine"]["tuning"]
    if other := sorted(key for key in {**old, **new} if old.get(key) != new.get(key)):
        found["tuning"] = [", ".join(f"{key} {given[key]}" for key in other if key in given) for given in (old, new)]
    return found


def rows(compared: Document, path: str, columns: int) -> list[list[str]]:
    """A comparison as rows of a table with `columns` columns. Rows of one cell are headings."""
    source = compared["with"]
    version = ", ".join(one_line(source[key], _NAME) for key in ("pellucid", "commit", "date") if source[key])
    out = [[""], [f"compared with {path} ({version})"]]
    out += [
        [f"another {name}: {_shown(old)} there, {_shown(new)} here"] for name, (old, new) in compared["differs"].items()
    ]
    if compared["differs"]:
        out.append(["so the ratios below do not compare only the versions"])

    def row(*cells: str) -> list[str]:
        return [*cells, *[""] * (columns - len(cells))]

    out.append(row("new / old", "tokens/s", "of limit"))
    for name, p in compared["phases"].items():
        out.append(row(name, f"{p['tokens_per_second']:.3f}", "" if p["fraction"] is None else f"{p['fraction']:.3f}"))
        for group in p["by_bandwidth"]:
            at = f"  at {group['gb_per_second']:.0f} GB/s"
            out.append(row(at, f"{group['tokens_per_second']:.3f}", f"{group['fraction']:.3f}"))
    if compared["limits"]:
        out.append(row("limit", "new / old"))
        out += [row(kind, f"{ratio:.3f}") for kind, ratio in compared["limits"].items()]
    for what, names in (("only there", compared["missing"]), ("only here", compared["added"])):
        if names:
            out.append([f"{what}: {', '.join(one_line(name, _NAME) for name in names[:20])}"])
    return out


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return one_line(str(value), _NAME) or "none"
