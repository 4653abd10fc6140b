"""`pellucid score`: shows how probable a text is for a model."""

from __future__ import annotations

import math
import os
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pellucid.cli import options, output
from pellucid.errors import PellucidError
from pellucid.sampling import MOST_LOGPROBS

if TYPE_CHECKING:
    from pellucid.look.compare import Comparison
    from pellucid.look.score import Score
    from pellucid.tokenizer import Tokenizer


def score(
    text: options.Prompt = None,
    file: Annotated[
        str | None,
        typer.Option("-f", "--file", metavar="FILE", help="Score the text of this file instead; -: standard input."),
    ] = None,
    model: options.ModelName = options.DEFAULT,
    lines: Annotated[
        bool, typer.Option("--lines", help="Score each line as a text of its own; empty lines are skipped.")
    ] = False,
    top: Annotated[
        int,
        typer.Option(
            metavar="N",
            min=0,
            max=MOST_LOGPROBS,
            help="Print every token with the N likeliest alternatives; 0: only totals.",
        ),
    ] = 0,
    window: Annotated[
        int | None,
        typer.Option(metavar="N", help="Score longer texts in overlapping parts of N tokens; default: --context."),
    ] = None,
    reference: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL2",
            help="Also compare the predictions with those of this model, such as the original of a quantised file.",
        ),
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
    """Shows how probable a text is for a model: log probability, perplexity, bits per byte and per token.

    Each token is scored given those before it; the first token is not counted.
    """
    from pellucid.look.compare import compare

    name, content = options.read_content(text, file, raw)
    named = [("", content)]
    if lines:
        named = [(f"line {number}", line) for number, line in options.lines_of(content)]
    if not named or not named[0][1]:
        raise PellucidError(f"{name} contains no text")
    if text == content and os.path.isfile(text):
        output.note(f"this scores the words {text!r}; for the text in that file: --file {text}")
    with options.load(
        model, threads=threads, context=context, isa=isa, kv=kv, cache_bytes=cache_bytes, quantize=quantize
    ) as loaded:
        longest = loaded.context_length if window is None else window
        with options.naming("window", "top"):
            found = loaded.score([line for _, line in named], top=top, window=longest)
        tokenizer = loaded.core.need_tokenizer()
        results = [_result(tokenizer, name, line, one, top) for (name, line), one in zip(named, found, strict=True)]
        compared = None
        if reference is not None:
            other = options.load(reference, threads=threads, context=context, isa=isa, kv=kv, cache_bytes=cache_bytes)
            with other, options.naming("reference", "text"):
                compared = compare(loaded.core, other.core, [line for _, line in named], longest)
    total = _sums([r["log_probability"] for r in results], *(sum(r[k] for r in results) for k in ("tokens", "bytes")))
    parts = max(len(one.ids) for one in found) > longest
    document = {**total, "window": longest if parts else None, "texts": results}
    if compared is not None:
        document["reference"] = {"model": reference, **compared.to_dict()}
    if json:
        output.document(document)
        return
    if top:
        _tokens(results, lines)
    elif lines:
        rows = [["", "tokens", "log probability", "perplexity", "bits/byte", "text"]]
        for (name, line), r in zip(named, results, strict=True):
            shown = line if len(line) <= 40 else line[:38] + ".."
            rows.append([name, *_figures(r), shown])
        output.table(rows, right=(1, 2, 3, 4))
    rows = [
        ["log probability", f"{total['log_probability']:.2f}", "natural logarithm, of all tokens together"],
        ["tokens", f"{total['tokens']:,}", "scored"],
        ["bytes", f"{total['bytes']:,}", "of these tokens"],
    ]
    for key, what in (
        ("perplexity", "exp of the mean surprise: the equivalent number of equally probable tokens"),
        ("bits_per_token", "mean surprise"),
        ("bits_per_byte", "comparable between models with different tokenizers"),
    ):
        rows.append([key.replace("_", " "), "none" if total[key] is None else f"{total[key]:.3f}", what])
    output.table(rows, right=(1,), named=False)
    if compared is not None:
        _comparison(compared)
    if parts:
        output.sentence(f"Scored in parts of {longest} tokens, each from the middle of the previous one.")


def _comparison(c: Comparison) -> None:
    output.line("")
    rows = [
        ["KL divergence", f"{c.kl_mean:.5f}", "mean, in nats: of the model's predictions from the reference's"],
        ["median", f"{c.kl_median:.5f}", ""],
        ["99th percentile", f"{c.kl_99:.5f}", ""],
        ["agreement", f"{100 * c.agreement:.2f} %", "tokens for which both have the same likeliest one"],
        ["perplexity", f"{c.perplexity:.3f}", f"of the model{_error(c.perplexity_error)}"],
        ["", f"{c.reference_perplexity:.3f}", f"of the reference{_error(c.reference_perplexity_error)}"],
    ]
    output.table(rows, right=(1,), named=False)


def _error(value: float) -> str:
    """A standard error, if there is one; a single token has none."""
    return "" if math.isnan(value) else f", +- {value:.3f} (standard error)"


def _sums(logprobs: list[float], tokens: int, nbytes: int) -> dict[str, Any]:
    """The totals of one or several texts; perplexity and bits are None if no token was scored."""
    total = math.fsum(logprobs)
    bits = -total / math.log(2)
    perplexity = math.exp(min(-total / tokens, 700.0)) if tokens else None
    return {
        "log_probability": total,
        "tokens": tokens,
        "bytes": nbytes,
        "perplexity": perplexity,
        "bits_per_token": bits / tokens if tokens else None,
        "bits_per_byte": bits / nbytes if nbytes else None,
    }


def _result(tokenizer: Tokenizer, name: str, text: str, found: Score, top: int) -> dict[str, Any]:
    first = len(tokenizer.piece(found.ids[0])) if not _is_bos(tokenizer, found.ids[0]) else 0
    out: dict[str, Any] = {"name": name} if name else {}
    out |= _sums([found.total], len(found.tokens), max(len(text.encode()) - first, 0))
    if top:
        out["scored"] = [{**token._asdict(), "top": [list(other) for other in token.top]} for token in found.tokens]
    return out


def _is_bos(tokenizer: Tokenizer, id: int) -> bool:
    return bool(tokenizer.add_bos) and id == tokenizer.bos


def _figures(r: dict[str, Any]) -> list[str]:
    cells = [f"{r['tokens']:,}", f"{r['log_probability']:.2f}"]
    return cells + ["" if r[key] is None else f"{r[key]:.3f}" for key in ("perplexity", "bits_per_byte")]


def _tokens(results: list[dict[str, Any]], lines: bool) -> None:
    rows = [["logprob", "token", "likeliest"]]
    for r in results:
        rows += [[r["name"]]] if lines else []
        for token in r["scored"]:
            best = "  ".join(f"{piece!r} {logprob:.2f}" for _, piece, logprob in token["top"])
            rows.append([f"{token['logprob']:.2f}", repr(token["piece"]), best])
    output.table(rows, right=(0,))
    output.line("")
