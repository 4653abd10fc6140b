"""`pellucid bench`: what this machine can do, and how close the model comes."""

from __future__ import annotations

from typing import Annotated

import typer

from pellucid.cli import options, output


def bench(
    model: options.ModelName = options.DEFAULT,
    repeat: Annotated[int, typer.Option(metavar="N", min=1, help="Rounds over all phases.")] = 3,
    phase: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Only phases whose name has this in it; several times.")
    ] = None,
    ops: Annotated[bool, typer.Option("--ops", help="Also the time of each operation in a pass.")] = False,
    compare: Annotated[
        str | None, typer.Option(metavar="FILE", help="An earlier --json document: shows new / old.")
    ] = None,
    threads: options.Threads = None,
    isa: options.Isa = None,
    kv: options.Kv = "auto",
    json: options.Json = False,
) -> None:
    """Times prefill, decode, several sequences at once and a cold start, beside the machine's limits at that moment.

    A phase's limit is the larger of two times: its bytes over the read bandwidth, its operations over their peak.
    Figures are medians. Progress goes to stderr.
    """
    from pellucid.bench import report, scenarios
    from pellucid.bench.limits import Prober

    earlier = None
    if compare is not None:
        try:
            earlier = report.read(compare)
        except ValueError as error:
            raise output.UsageError(f"--compare: {error}") from None
    with options.load(model, threads=threads, isa=isa, kv=kv) as loaded:
        runner = scenarios.Bench(loaded)
        chosen = [p for p in scenarios.phases(runner) if not phase or any(part in p.name for part in phase)]
        if not chosen:
            names = ", ".join(p.name for p in scenarios.phases(runner))
            raise output.UsageError(f"--phase {', '.join(phase or ())}: this model's phases are {names}")
        prober = Prober(runner.info.isa, runner.info.threads)
        runs, limits = runner.measure(chosen, prober, repeat, output.note)
        document = report.document(runner, runs, limits, runner.operations() if ops else ())
    if earlier is not None:
        document["compared"] = report.compare(document, earlier)
    if json:
        output.document(document)
    else:
        output.table(report.rows(document, earlier), right=(1, 2, 3, 4, 5, 6))
