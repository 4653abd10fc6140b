"""`pellucid inspect`: what a model computes while it processes a text."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pellucid.cli import options, output
from pellucid.errors import PellucidError
from pellucid.sampling import SamplingOptions

if TYPE_CHECKING:
    from pellucid.model import Model

_D = SamplingOptions()


def inspect(
    text: options.Prompt = None,
    model: options.ModelName = options.DEFAULT,
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
        typer.Option("--temperature", "--temp", metavar="T", help="Divides logits; 0: always the most probable token."),
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
    threads: options.Threads = None,
    context: options.Context = None,
    isa: options.Isa = None,
    kv: options.Kv = "auto",
    cache_bytes: options.CacheBytes = None,
    json: options.Json = False,
) -> None:
    """Shows what a model computes while it processes a text (as it is, without a chat template).

    Prints how much the model expected each token; the next token's probabilities, before and after each sampling
    filter; the likeliest token after each layer; the heads that changed the next token's logit most, and the tokens
    that they attend to.
    """
    if head is not None and layer is None:
        raise output.UsageError(f"--head={head}: needs --layer, the head's layer")
    sampling = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "min_p": min_p}
    with options.naming(*sampling):
        SamplingOptions(**sampling)  # type: ignore[arg-type]
    if png is not None:
        _check_folder(png)
    content = options.read_text(text, "text")
    with options.load(model, threads=threads, context=context, isa=isa, kv=kv, cache_bytes=cache_bytes) as loaded:
        with options.naming("prompt", "position", "layer", "head"):
            found = look(loaded, content, position, layer, head, show, sampling)
        figures = [] if png is None else _figures(loaded, found, png, head)
        if png is not None:
            found["png"] = figures
        del found["_"]
    if json:
        output.document(found)
        return
    from pellucid.cli import show as showing

    showing.inspected(found, show)
    for path in figures:
        output.line(f"written: {path}")


def look(
    model: Model, text: str, position: int, layer: int | None, head: int | None, show: int, sampling: dict[str, Any]
) -> dict[str, Any]:
    """Everything to show, as plain data; "_" holds what the figures are drawn from."""
    from pellucid.look import choice, record, tables

    core = model.core
    config, ids = core.config, core.prompt(text)
    (at,) = record.select("position", position, len(ids))
    layers = None if layer is None else record.select("layer", layer, config.layers)
    if head is not None:
        (head,) = record.select("head", head, config.attention.n_q)
    whole = model.trace(ids, "hidden", layers=-1)  # a row per token, for the surprise of each
    here = model.trace(ids, ("hidden", "attention"), positions=at)
    near = here if layers is None else model.trace(ids, "attention", positions=at, layers=layers)
    pushed = here.attribution(at)
    logits = here.logits_at(at)
    own = here.ids[at + 1] if at + 1 < len(ids) else None

    def step(found: choice.Step) -> dict[str, Any]:
        tokens = zip(found.ids[:show].tolist(), found.probabilities, strict=False)
        return {
            "name": found.name,
            "kept": len(found.ids),
            "tokens": [{"id": id, "piece": core.spell(id), "probability": float(p)} for id, p in tokens],
        }

    def looked(found: list[tables.Look]) -> list[dict[str, Any]]:
        return [{"position": one.position, "piece": one.token.piece, "weight": one.weight} for one in found]

    out: dict[str, Any] = {
        "model": os.path.basename(model.core.facts.path),
        "position": at,
        "follows": own,
        "tokens": [
            {"id": row.token.id, "piece": row.token.piece, **{k: v for k, v in row._asdict().items() if k != "token"}}
            for row in tables.surprise(whole)
        ],
        "next": [guess._asdict() for guess in here.top(at, show)],
        "sampling": {**sampling, "steps": [step(s) for s in choice.steps(logits, **sampling)]},
        "lens": [[guess._asdict() for guess in guesses] for guesses in here.lens(at, show)],
        "target": {"id": pushed.token.id, "piece": pushed.token.piece, "logit": pushed.logit},
        "heads": [
            {"layer": p.layer, "head": p.head, "logits": p.logits, "looks": looked(p.looks)}
            for p in tables.heads(near, at, n=show, of=pushed)
        ],
        "head": None,
    }
    if layers is not None and head is not None:
        weights = looked(tables.looks(near, layers[0], head, at, len(ids)))
        mine = float(pushed.heads[layers[0], head])
        out["head"] = {"layer": layers[0], "head": head, "logits": mine, "looks": weights}
    out["_"] = (ids, pushed, layers)
    return out


def _check_folder(folder: str) -> None:
    """Creates the folder for figures. Called before anything is downloaded or computed. Raises PellucidError without
    matplotlib, OSError."""
    from pellucid.look import plots

    try:
        plots.check()
    except ImportError as error:
        raise PellucidError(f"--png: {error}") from None
    os.makedirs(folder, exist_ok=True)


def _figures(model: Model, found: dict[str, Any], folder: str, head: int | None) -> list[str]:
    """Draws the figures of the tokens up to the position -> their paths."""
    from pellucid.look import plots

    ids, pushed, layers = found["_"]
    ids = ids[: found["position"] + 1]
    number = layers[0] if layers is not None else found["heads"][0]["layer"]
    last = range(len(ids))
    many = model.trace(ids, "hidden", positions=last[-plots.MOST["lens"] :])
    maps = model.trace(ids, "attention", layers=number, positions=last[-plots.MOST["attention"] :])
    paths = []
    for name, figure in (
        ("lens", plots.lens(many)),
        ("attention", plots.attention(maps, number, head)),
        ("attribution", plots.of_attribution(pushed)),
    ):
        paths.append(os.path.join(folder, f"{name}.png"))
        plots.save(figure, paths[-1])
    return paths
