"""Joins the program, its styles and the data of a page into one file, which opens in any browser and fetches
nothing."""

from __future__ import annotations

import base64
import functools
import hashlib
import html
import json
import re
from collections.abc import Mapping
from importlib import resources
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pellucid.page import blocks

__all__ = ["Program", "joined", "page", "program", "static"]

ENTRY = "page.js"
_IMPORT = re.compile(r'^import (?:\{([^}]*)\} from )?"\./([\w/.-]+)";\n', re.M)
_EXPORT = re.compile(r"^export (?=(?:async |class|const|function|let) ?)", re.M)
_NAMES = re.compile(r"^(?:export )?(?:async )?(?:function\*?|class|const|let|var) (\w+|\{[^}]*\})", re.M)


class Program(NamedTuple):
    script: str
    style: str


def static(name: str) -> str:
    """A file of static/."""
    return resources.files("pellucid.page").joinpath("static", name).read_text("utf-8")


@functools.cache
def program() -> Program:
    """The common part of every page."""
    return Program(joined(ENTRY), static("app.css"))


def joined(entry: str) -> str:
    """A module and everything that it imports, each module once and after its own imports, as one module without
    imports.

    Raises ValueError if that would change the program: imports under other names, other forms of export, a top-level
    name in two modules, or text that would end the script.
    """
    done: dict[str, str] = {}
    _add(entry, done, [])
    owner: dict[str, str] = {}
    for name, text in done.items():
        for found in _NAMES.findall(text):
            for one in re.findall(r"\w+", found):
                if owner.setdefault(one, name) != name:
                    raise ValueError(f"{name}: {one} is also a name of {owner[one]}")
    text = "\n".join(_EXPORT.sub("", one) for one in done.values())
    if re.search(r"</?script|^import |^export ", text, re.I | re.M):
        raise ValueError(f"{entry}: what is joined has a script's end, an import or an export")
    return text


def _add(name: str, done: dict[str, str], path: list[str]) -> None:
    if name in path:
        raise ValueError(f"{name}: imports itself, through {', '.join(path)}")
    if name in done:
        return
    text = static(name)
    folder = name.rpartition("/")[0]
    for names, other in _IMPORT.findall(text):
        if " as " in names:
            raise ValueError(f"{name}: imports under another name")
        _add(f"{folder}/{other}".lstrip("/"), done, [*path, name])
    done[name] = _IMPORT.sub("", text)


def page(
    meta: Mapping[str, Any], arrays: Mapping[str, npt.NDArray[Any]], encoded: Mapping[str, tuple[str, str]]
) -> str:
    """One page. meta: plain data; arrays: blocks; encoded: more blocks as {name: (type, text)}."""
    parts, types = [], {}
    for name, (kind, text) in {**{n: blocks.encode(np.asarray(a)) for n, a in arrays.items()}, **encoded}.items():
        types[name] = kind
        parts.append(f'<script type="text/plain" id="block-{name}">{text}</script>\n')
    data = json.dumps({"pellucid_page": blocks.VERSION, **meta, "blocks": types}, ensure_ascii=True, allow_nan=False)
    script, style = program()
    values = {
        "TITLE": html.escape(_plain(str(meta["title"]))),
        "POLICY": f"default-src 'none'; script-src '{_hash(script)}'; style-src '{_hash(style)}'; base-uri 'none'; "
        "form-action 'none'",
        "STYLE": style,
        "META": data.replace("<", "\\u003c").replace("\x7f", "\\u007f"),
        "BLOCKS": "".join(parts),
        "SCRIPT": script,
    }
    return re.sub(r"@@([A-Z]+)@@", lambda match: values[match[1]], static("page.html"))


def _plain(text: str) -> str:
    return "".join(c if c.isprintable() else "\ufffd" for c in text)


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")
