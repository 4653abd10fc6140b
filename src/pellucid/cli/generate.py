"""`pellucid generate`: text from a prompt, as it comes."""

from __future__ import annotations

from typing import Any

from pellucid.cli import options, output
from pellucid.sampling import SamplingOptions

_D = SamplingOptions()


def generate(
    prompt: options.Prompt = None,
    model: options.ModelName = options.DEFAULT,
    max_tokens: options.MaxTokens = _D.max_tokens,
    temperature: options.Temperature = _D.temperature,
    top_k: options.TopK = _D.top_k,
    top_p: options.TopP = _D.top_p,
    min_p: options.MinP = _D.min_p,
    seed: options.Seed = None,
    stop: options.Stop = None,
    threads: options.Threads = None,
    context: options.Context = None,
    isa: options.Isa = None,
    kv: options.Kv = "auto",
    json: options.Json = False,
) -> None:
    """Goes on from a text, as it is (no chat template). Only the new text goes to stdout; timings go to stderr."""
    from pellucid.generation import collect, parse_options

    asked: dict[str, Any] = {
        "max_tokens": max_tokens,
        "temperature": temperature,
        "top_k": top_k,
        "top_p": top_p,
        "min_p": min_p,
        "seed": seed,
        "stop": tuple(stop or ()),
    }
    with options.naming(*asked):  # before anything is fetched
        asked["seed"] = parse_options(asked).seed
    text = options.read_text(prompt)
    with options.load(model, threads=threads, context=context, isa=isa, kv=kv) as loaded:
        with options.naming("prompt", *asked):
            pieces = loaded.stream(text, **asked)
        if json:
            done = collect(pieces)
            output.document({**done.to_dict(), "seed": asked["seed"], "model": loaded.info().to_dict()})
            return
        last = None
        for last in pieces:
            output.write(last.text)
        output.end_line()
        assert last is not None and last.timings is not None  # a stream's last piece has them
        t = last.timings
        output.note(_timings(t, last.finish_reason or ""))


def _timings(t: Any, finish: str) -> str:
    parts = [
        f"load {t.load:.2f} s",
        f"prompt {t.prefill_tokens} tokens in {t.prefill:.2f} s ({t.prefill_rate:.0f}/s)",
        f"then {t.decode_tokens} in {t.decode:.2f} s ({t.decode_rate:.0f}/s)",
    ]
    return f"[{', '.join(parts)}; {finish}]"
