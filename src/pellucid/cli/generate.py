"""`pellucid generate`: continues a text."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from pellucid.cli import options, output
from pellucid.cli.sampling import arguments, sampling_options
from pellucid.markup import count
from pellucid.sampling import SamplingOptions

_D = SamplingOptions()
_HINT = "the model ended the text immediately; to ask it something, use its chat template: pellucid chat TEXT"


@sampling_options
def generate(
    prompt: options.Prompt = None,
    model: options.ModelName = options.DEFAULT,
    max_tokens: Annotated[
        int, typer.Option("-n", "--max-tokens", metavar="N", help="Maximum number of new tokens.")
    ] = _D.max_tokens or 0,
    stop: Annotated[
        list[str] | None, typer.Option(metavar="TEXT", help="Stop before this text; may be given several times.")
    ] = None,
    threads: options.Threads = None,
    context: options.Context = None,
    isa: options.Isa = None,
    kv: options.Kv = "auto",
    cache_bytes: options.CacheBytes = None,
    checkpoints: options.Checkpoints = None,
    quantize: options.Quantize = None,
    share: options.Share = False,
    draft: options.Draft = None,
    no_speculate: options.NoSpeculate = False,
    prediction: options.Prediction = None,
    raw: options.Raw = False,
    json: options.Json = False,
    **sampling: Any,
) -> None:
    """Continues a text, without a chat template. Only the new text goes to stdout; timings go to stderr.

    To ask a model trained to chat, use `pellucid chat TEXT`.
    """
    from pellucid.cli.flow import Flow
    from pellucid.generation import parse_options

    asked: dict[str, Any] = {"max_tokens": max_tokens, "stop": options.arguments(stop, "--stop"), **arguments(sampling)}
    asked |= options.speculation(no_speculate, prediction)
    with options.naming(*asked):  # before anything is downloaded
        parse_options(asked)
    text = options.read_text(prompt, raw=raw)
    with options.load(
        model,
        threads=threads,
        context=context,
        isa=isa,
        kv=kv,
        cache_bytes=cache_bytes,
        checkpoints=checkpoints,
        quantize=quantize,
        share=share,
        draft=draft,
    ) as loaded:
        if json:
            with options.naming("prompt", *asked):
                done = loaded.generate(text, **asked)
            output.document({**done.to_dict(), "model": loaded.info().to_dict()})
        else:
            with options.naming("prompt", *asked):
                pieces = loaded.stream(text, **asked)
            with Flow() as flow:
                for piece in pieces:
                    flow.write(piece.text)
            output.end_line()
            done = pieces.result()
            output.note(_timings(done.timings, done.finish_reason))
        if done.finish_reason == "eos" and not done.ids and loaded.tokenizer and loaded.tokenizer.chat_template:
            output.note(_HINT)


def _timings(t: Any, finish: str) -> str:
    parts = [
        f"load {t.load:.2f} s",
        f"prompt {count(t.prefill_tokens, 'token')} in {t.prefill:.2f} s ({t.prefill_rate:.0f}/s)",
        f"then {t.decode_tokens} in {t.decode:.2f} s ({t.decode_rate:.0f}/s)",
    ]
    if t.drafted_tokens:
        parts.append(f"{t.accepted_tokens} of {t.drafted_tokens} guesses right")
    return f"[{', '.join(parts)}; {finish}]"
