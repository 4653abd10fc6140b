"""`pellucid inspect --html`: writes a page that shows everything a model computes for a text."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from pellucid.cli import options, output
from pellucid.errors import one_line
from pellucid.sampling import SamplingOptions

if TYPE_CHECKING:
    from pellucid.model import Model

__all__ = ["Request", "check", "write"]

RANGES = ("layers", "positions")
MOST = 2048  # numbers of a range: more than a page has tokens


class Request(NamedTuple):
    """The options of the page."""

    path: str
    megabytes: float | None
    title: str | None
    time: bool
    chat: bool
    generate: int | None
    seed: int | None
    file: str | None
    position: int
    layers: str | None
    positions: str | None


def check(
    path: str,
    file: str | None,
    text: str | None,
    chat: bool,
    generate: int | None,
    seed: int | None,
    others: Mapping[str, Any],
) -> None:
    """Refuses impossible requests before anything is computed. others: values, by name, of options that a page does
    not use; None if an option was not given."""
    for name, value in others.items():
        if value is not None:
            raise output.UsageError(f"--{name}: a page shows everything; leave out --{name} or --html")
    if os.path.isdir(path):
        raise output.UsageError(f"--html={path}: this is a folder; expected the name of a file to write")
    folder = os.path.dirname(path) or "."
    if not os.path.isdir(folder):
        raise output.UsageError(f"--html={path}: there is no folder {folder}")
    if file is not None and text is not None:
        raise output.UsageError(f"--file={file}: takes the place of TEXT; give one of them")
    if file is not None and chat:
        raise output.UsageError("--chat: makes a message of TEXT, and --file has tokens; give one of them")
    if seed is not None and generate is None:
        raise output.UsageError(f"--seed={seed}: needs --generate, whose draws it determines")
    options.check_place(path)
    options.check_unread(path, file)


def write(
    request: Request, model: str, loading: Mapping[str, Any], text: str | None, raw: bool, sampling: Mapping[str, Any]
) -> None:
    """Loads the model, computes the page and writes it."""
    title = None if request.title is None else options.argument(request.title, "--title")
    layers, positions = (_numbers(n, getattr(request, n)) for n in RANGES)
    with options.naming(*sampling, "seed"):
        chosen = SamplingOptions(**sampling, seed=request.seed, max_tokens=request.generate or 0)
    content = None if request.file is not None else options.read_text(text, raw=raw)
    with options.load(model, **loading) as loaded, options.naming("prompt", "megabytes", "position", *RANGES):
        from pellucid.look import pages

        options.check_unread(request.path, loaded.info().path)
        size = pages.MEGABYTES if request.megabytes is None else request.megabytes
        ids = _ids(loaded, request, content)
        pages.check(len(ids) + (request.generate or 0), size)
        prompt, settled = len(ids), chosen
        if request.generate is not None:
            done = loaded.generate(ids, options=chosen)
            ids, settled = (done.prompt_ids + done.ids)[: loaded.context_length], done.options
        timings = _timings(loaded, ids) if request.time else None
        page = pages.page(
            loaded.core,
            ids,
            title=title,
            megabytes=size,
            prompt=prompt,
            position=None if request.position == -1 else request.position,
            layers=layers,
            positions=positions,
            options=settled,
            timings=timings,
        )
        page.save(request.path)
    output.line(f"written: {request.path} ({options.size(len(page.text))})")


def _numbers(name: str, given: str | None) -> list[int] | None:
    """The numbers of "3", "0-5,29" or "-1". UsageError for any other text."""
    if given is None:
        return None
    found: list[int] = []
    for part in given.split(","):
        match = re.fullmatch(r"\s*(-?[0-9]{1,9})(?:-([0-9]{1,9}))?\s*", part)
        if match is None or (match[2] and not 0 <= int(match[1]) <= int(match[2])):
            expected = "numbers and ranges, such as 0-5,29"
            raise output.UsageError(f"--{name}={one_line(given, 60)}: expected {expected}")
        last = int(match[2] or match[1])
        found += range(int(match[1]), min(last, int(match[1]) + MOST) + 1)
    return found


def _ids(model: Model, request: Request, content: str | None) -> list[int]:
    if request.file is not None:
        from pellucid.look.trace import Trace

        return Trace.load(request.file, model).ids
    if request.chat:
        found = model.core.conversation([{"role": "user", "content": content}])
        return list(found.ids)
    return model.core.prompt(content)


def _timings(model: Model, ids: list[int]) -> dict[str, list[int]]:
    """Nanoseconds of each operation, in the pass over all tokens and in the one over the last token."""
    from pellucid.bench.operations import fastest

    engine = model.core.open()
    some = ids[: engine.max_rows]
    return {
        "prompt": fastest(engine, [some]).tolist(),
        "token": fastest(engine, [ids], before=len(ids) - 1).tolist(),
    }
