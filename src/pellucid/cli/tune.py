"""`pellucid tune`: measures the fastest settings for this machine, and keeps them."""

from __future__ import annotations

from typing import Annotated

import typer

from pellucid.cli import options, output


def tune(
    model: options.ModelName = options.DEFAULT,
    seconds: Annotated[
        float,
        typer.Option(
            metavar="S", min=1, max=3600, help="How long to measure; more is more certain. A large model takes longer."
        ),
    ] = 20,
    threads: options.Threads = None,
    isa: options.Isa = None,
    json: options.Json = False,
) -> None:
    """Measures the fastest settings for this machine, and keeps them for later loads.

    Prefetch distances and block sizes change the speed, but no bit of a result. The first load on a machine briefly
    measures the most important ones; this command measures all of them on the model's own passes, and shows the
    times. PELLUCID_TUNE=off ignores kept results; with PELLUCID_TUNE=now the next load measures again what a first
    load measures, and takes the rest from the kept results.
    """
    from pellucid.bench.tune import tune as measure

    with options.load(model, threads=threads, isa=isa) as loaded:
        output.note(f"measuring for about {seconds:g} s; other work on this machine disturbs it")
        found, cpu = measure(loaded, seconds, output.note), loaded.info().cpu
    if json:
        measured = [timing.to_dict() for timing in found.timings]
        output.document({"cpu": cpu, "values": found.values, "why": found.why, "measured": measured})
        return
    output.line(f"{output.visible(cpu)}: {output.visible(found.why)}")
    rows = []
    for timing in found.timings:
        rows += [[""], [timing.what]]
        for i, (candidate, ratio) in enumerate(zip(timing.candidates, timing.ratios, strict=True)):
            words = ", ".join(f"{name} {value:,}" for name, value in candidate.items())
            rows.append([f"{ratio:.3f}", "chosen" if i == timing.chosen else "", words])
    output.table(rows, right=(0,), named=False)
    output.line("\nTimes relative to the settings derived from the processor; less is faster.")
