"""`pellucid inspect`: shows what a model computes while it processes a text."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from pellucid.cli import options, output, page
from pellucid.errors import PellucidError, one_line
from pellucid.sampling import SamplingOptions

if TYPE_CHECKING:
    from pellucid.model import Model

_D = SamplingOptions()
PARTS = ("surprise", "probabilities", "sampling", "lens", "memory", "heads")


def inspect(
    text: options.Prompt = None,
    model: options.ModelName = options.DEFAULT,
    only: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PART",
            help=f"Show only this part: {', '.join(PARTS)}; may be given several times.",
            autocompletion=lambda incomplete: [part for part in PARTS if part.startswith(incomplete)],
        ),
    ] = None,
    position: Annotated[
        int, typer.Option(metavar="P", help="Position of the token to look at; -1: the last one.", show_default=False)
    ] = -1,
    layer: Annotated[
        int | None, typer.Option(metavar="L", help="Show only this layer's heads; -1: the last layer. Default: all.")
    ] = None,
    head: Annotated[
        int | None, typer.Option(metavar="H", help="With --layer: show all tokens that this head attends to.")
    ] = None,
    show: Annotated[int, typer.Option(metavar="N", min=1, max=100, help="How many next tokens and heads to show.")] = 8,
    temperature: Annotated[
        float,
        typer.Option(
            "--temperature", "--temp", metavar="T", help="Divide logits by T; 0: always the most probable token."
        ),
    ] = _D.temperature,
    top_k: Annotated[int, typer.Option(metavar="K", help="Keep the K most probable tokens; 0: all.")] = _D.top_k,
    top_p: Annotated[
        float, typer.Option(metavar="P", help="Keep the most probable tokens that sum to P; 1: all.")
    ] = _D.top_p,
    min_p: Annotated[
        float, typer.Option(metavar="P", help="Drop tokens less than P times as probable as the best; 0: none.")
    ] = _D.min_p,
    png: Annotated[
        str | None, typer.Option(metavar="DIR", help="Also write figures into this folder (extra `plots`).")
    ] = None,
    html: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Write a page that shows all of it instead: one file, for any browser."),
    ] = None,
    html_size: Annotated[
        float | None,
        typer.Option(metavar="MB", help="Maximum size of the page in megabytes. Default: 15.", min=0.5, max=2000),
    ] = None,
    title: Annotated[str | None, typer.Option(metavar="T", help="The page's title. Default: the text.")] = None,
    time: Annotated[bool, typer.Option("--time", help="With --html: measure each operation, too.")] = False,
    chat: Annotated[
        bool, typer.Option("--chat", help="With --html: use the text as a user's message, in the chat template.")
    ] = False,
    generate: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="With --html: show N tokens of the answer, too.")
    ] = None,
    seed: Annotated[
        int | None, typer.Option(metavar="S", help="With --generate: seed of the random draws; default: a random one.")
    ] = None,
    file: Annotated[
        str | None,
        typer.Option(metavar="TRACE", help="With --html: show the tokens of a saved trace (.npz) instead of TEXT."),
    ] = None,
    layers: Annotated[
        str | None,
        typer.Option(metavar="LIST", help="With --html: keep only the heads' weights of these layers, such as 0-5,29."),
    ] = None,
    positions: Annotated[
        str | None, typer.Option(metavar="LIST", help="With --html: keep only the heads' weights of these tokens.")
    ] = None,
    threads: options.Threads = None,
    context: options.Context = None,
    isa: options.Isa = None,
    kv: options.Kv = "auto",
    cache_bytes: options.CacheBytes = None,
    quantize: options.Quantize = None,
    raw: options.Raw = False,
    json: options.Json = False,
) -> None:
    """Shows what a model computes while it processes a text (as it is, without a chat template).

    Prints how much the model expected each token; the next token's probabilities, before and after each sampling
    filter; the likeliest token after each layer; the memory that weights, keys and values take; the heads that changed
    the next token's logit most, and the tokens that they attend to. With --html, a page that shows all of it, for every
    token, layer and head.
    """
    sampling = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "min_p": min_p}
    loading: dict[str, Any] = {
        "threads": threads, "context": context, "isa": isa, "kv": kv, "cache_bytes": cache_bytes, "quantize": quantize,
    }  # fmt: skip
    if html is not None:
        others = {"only": only, "layer": layer, "head": head, "png": png, "json": json or None}
        page.check(html, file, text, chat, generate, seed, others)
        request = page.Request(html, html_size, title, time, chat, generate, seed, file, position, layers, positions)
        page.write(request, model, loading, text, raw, sampling)
        return
    given = {"html-size": html_size, "title": title, "time": time or None, "chat": chat or None}
    given |= {"generate": generate, "seed": seed, "file": file, "layers": layers, "positions": positions}
    for name, value in given.items():
        if value is not None:
            raise output.UsageError(f"--{name}: needs --html")
    parts = _parts(only)
    for name, value in (("layer", layer), ("head", head)):
        if value is not None and "heads" not in parts:
            raise output.UsageError(f"--{name}={value}: applies to heads, which --only leaves out")
    if head is not None and layer is None:
        raise output.UsageError(f"--head={head}: needs --layer, the head's layer")
    with options.naming(*sampling):
        SamplingOptions(**sampling)  # type: ignore[arg-type]
    if png is not None:
        if not {"lens", "heads"} & parts:
            raise output.UsageError("--png: figures show lens and heads, which --only leaves out")
        _check_folder(png)
    content = options.read_text(text, raw=raw)
    with options.load(model, **loading) as loaded:
        with options.naming("prompt", "position", "layer", "head"):
            found = look(loaded, content, position, layer, head, show, sampling, parts)
        figures = [] if png is None else _figures(loaded, found, png, head, parts)
        if png is not None:
            found["png"] = figures
        seen = found.pop("_").seen
    if json:
        output.document(found)
        return
    from pellucid.cli import show as showing

    showing.inspected(found, seen, show)
    for path in figures:
        output.line(f"written: {path}")


def _parts(only: list[str] | None) -> set[str]:
    """The parts to show; words may also be separated by commas. UsageError for an unknown word."""
    asked = [word.strip() for words in only or () for word in words.split(",")]
    for word in asked:
        if word not in PARTS:
            raise output.UsageError(f"--only={one_line(word, 60)!r}: expected {', '.join(PARTS[:-1])} or {PARTS[-1]}")
    return set(asked or PARTS)


class _Drawn(NamedTuple):
    """The data for the figures, and the line that says which text and position were inspected."""

    ids: list[int]
    pushed: Any
    seen: str


def look(
    model: Model,
    text: str,
    position: int,
    layer: int | None,
    head: int | None,
    show: int,
    sampling: dict[str, Any],
    parts: set[str],
) -> dict[str, Any]:
    """Everything to show, as plain data; "_" holds the data for the figures."""
    from pellucid.look import sizes, tables

    core = model.core
    config, ids = core.config, core.prompt(text)
    (at,) = sizes.select("position", position, len(ids))
    layers = None if layer is None else sizes.select("layer", layer, config.layers)
    if head is not None:
        (head,) = sizes.select("head", head, config.attention.n_q)
    here = model.trace(ids, ("hidden", "attention") if "heads" in parts else "hidden", positions=at)
    out: dict[str, Any] = {
        "model": os.path.basename(core.facts.path),
        "position": at,
        "follows": here.ids[at + 1] if at + 1 < len(ids) else None,
    }
    if "surprise" in parts:
        whole = model.trace(ids, "hidden", layers=-1)  # a row per token
        out["tokens"] = [
            {"id": row.token.id, "piece": row.token.piece, **{k: v for k, v in row._asdict().items() if k != "token"}}
            for row in tables.surprise(whole)
        ]
    if "probabilities" in parts:
        out["next"] = [guess._asdict() for guess in here.top(at, show)]
    if "sampling" in parts:
        out["sampling"] = _sampling(core, here.logits_at(at), sampling, show)
    if "lens" in parts:
        out["lens"] = [[guess._asdict() for guess in guesses] for guesses in here.lens(at, show)]
    if "memory" in parts:
        out["memory"] = _memory(model, len(ids))
    pushed = None
    if "heads" in parts:
        pushed = here.attribution(at)
        near = here if layers is None else model.trace(ids, "attention", positions=at, layers=layers)
        out |= _heads(near, pushed, at, layers, head, show, len(ids))
    seen = f"{len(ids)} token{'s' if len(ids) > 1 else ''}, seen after position {at}, {core.spell(ids[at])!r}."
    out["_"] = _Drawn(ids, pushed, seen)
    return out


def _sampling(core: Any, logits: Any, sampling: dict[str, Any], show: int) -> dict[str, Any]:
    from pellucid.look import choice

    steps = []
    for step in choice.steps(logits, suppressed=core.facts.suppressed, **sampling):
        tokens = zip(step.ids[:show].tolist(), step.probabilities, strict=False)
        shown = [{"id": id, "piece": core.spell(id), "probability": float(p)} for id, p in tokens]
        steps.append({"name": step.name, "kept": len(step.ids), "tokens": shown})
    return {**sampling, "steps": steps}


def _memory(model: Model, tokens: int) -> dict[str, Any]:
    """Bytes of the packed weights, of a pass, and of the keys and values of this text."""
    info = model.info()
    return {
        "weights": info.packed_bytes,
        "pass": info.work_bytes,
        "per_token": info.cache_bytes_per_token,
        "text": info.cache_bytes_per_token * tokens,
        "context": info.cache_bytes_per_token * info.context,
        "limit": info.cache_limit,
        "kv": info.kv,
    }


def _heads(
    near: Any, pushed: Any, at: int, layers: tuple[int, ...] | None, head: int | None, show: int, count: int
) -> dict[str, Any]:
    """The heads that changed the logit most, and everything that the requested head, if any, attends to."""
    from pellucid.look import tables

    def looked(found: list[tables.Look]) -> list[dict[str, Any]]:
        return [{"position": one.position, "piece": one.token.piece, "weight": one.weight} for one in found]

    out: dict[str, Any] = {
        "target": {"id": pushed.token.id, "piece": pushed.token.piece, "logit": pushed.logit},
        "heads": [
            {"layer": p.layer, "head": p.head, "logits": p.logits, "looks": looked(p.looks)}
            for p in tables.heads(near, at, n=show, of=pushed)
        ],
        "head": None,
    }
    if layers is not None and head is not None:
        weights = looked(tables.looks(near, layers[0], head, at, count))
        mine = float(pushed.heads[layers[0], head])
        out["head"] = {"layer": layers[0], "head": head, "logits": mine, "looks": weights}
    return out


def _check_folder(folder: str) -> None:
    """Creates the folder for figures, before anything is downloaded or computed. Raises PellucidError without
    matplotlib, and OSError."""
    from pellucid.look import plots

    try:
        plots.check()
    except ImportError as error:
        raise PellucidError(f"--png: {error}") from None
    os.makedirs(folder, exist_ok=True)


def _figures(model: Model, found: dict[str, Any], folder: str, head: int | None, parts: set[str]) -> list[str]:
    """Draws the figures for the tokens up to the position -> their paths."""
    from pellucid.look import plots

    drawn: _Drawn = found["_"]
    ids = drawn.ids[: found["position"] + 1]
    last, figures = range(len(ids)), {}
    if "lens" in parts:
        figures["lens"] = plots.lens(model.trace(ids, "hidden", positions=last[-plots.MOST["lens"] :]))
    if "heads" in parts and found["heads"]:  # empty if no layer has attention
        number = found["heads"][0]["layer"]
        maps = model.trace(ids, "attention", layers=number, positions=last[-plots.MOST["attention"] :])
        figures["attention"] = plots.attention(maps, number, head)
        figures["attribution"] = plots.of_attribution(drawn.pushed)
    paths = []
    for name, figure in figures.items():
        paths.append(os.path.join(folder, f"{name}.png"))
        plots.save(figure, paths[-1])
    return paths
