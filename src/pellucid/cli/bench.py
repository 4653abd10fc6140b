"""`pellucid bench`: the limits of this machine, and how close a model comes to them."""

from __future__ import annotations

from typing import Annotated

import typer

from pellucid.cli import options, output


def bench(
    model: options.ModelName = options.DEFAULT,
    repeat: Annotated[int, typer.Option(metavar="N", min=1, help="Number of rounds over all phases.")] = 3,
    phase: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Run only phases whose name contains this; may be given several times."),
    ] = None,
    ops: Annotated[bool, typer.Option("--ops", help="Also show the time of each operation in a pass.")] = False,
    compare: Annotated[
        str | None, typer.Option(metavar="FILE", help="Compare with an earlier --json document, as new / old.")
    ] = None,
    threads: options.Threads = None,
    isa: options.Isa = None,
    kv: options.Kv = "auto",
    json: options.Json = False,
) -> None:
    """Times prefill, decode, several sequences at once and a cold start, and compares them with the machine's limits.

    A phase's limit is the larger of two times: its bytes divided by the read bandwidth, its operations divided by their
    peak rate, both measured right before and after it. Figures are medians. Progress goes to stderr.
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
