"""`pellucid bench`: measures the limits of this machine, and how close a model comes to them."""

from __future__ import annotations

from typing import Annotated

import typer

from pellucid.cli import options, output
from pellucid.errors import PellucidError


def bench(
    model: options.ModelName = options.DEFAULT,
    repeat: Annotated[int, typer.Option(metavar="N", min=1, help="Number of rounds over all phases.")] = 3,
    phase: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Run only phases whose name contains this; may be given several times."),
    ] = None,
    ops: Annotated[
        bool,
        typer.Option(
            "--ops", help="Also show the time of each operation in a pass, beside that of its matrix kernels alone."
        ),
    ] = False,
    compare: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Compare with an earlier --json or --save document, as new / old."),
    ] = None,
    save: Annotated[
        str | None,
        typer.Option(
            metavar="PATH", help="Also write the --json document to this file or, under a new name, to this folder."
        ),
    ] = None,
    threads: options.Threads = None,
    isa: options.Isa = None,
    kv: options.Kv = "auto",
    cache_bytes: options.CacheBytes = None,
    json: options.Json = False,
) -> None:
    """Times prefill, decode, several sequences at once and a cold start, and compares them with the machine's limits.

    A phase's limit is the larger of two times: its bytes divided by the read bandwidth, measured right before and after
    it, and its operations divided by their peak rate, the best of the session. Figures are medians; memory-bound
    phases are also shown relative to the bandwidth of the moment. Progress goes to stderr.
    """
    from pellucid.bench import history, report, scenarios
    from pellucid.bench.kernels import Kernels
    from pellucid.bench.limits import Prober

    earlier = None
    if compare is not None:
        try:
            earlier = history.read(compare)
        except ValueError as error:
            raise output.UsageError(f"--compare: {error}") from None
    if save is not None:
        try:
            history.target(save)
        except ValueError as error:
            raise output.UsageError(f"--save: {error}") from None
    with options.load(model, threads=threads, isa=isa, kv=kv, cache_bytes=cache_bytes) as loaded:
        runner = scenarios.Bench(loaded)
        chosen = [p for p in scenarios.phases(runner) if not phase or any(part in p.name for part in phase)]
        if not chosen:
            names = ", ".join(p.name for p in scenarios.phases(runner))
            if not names:
                raise output.UsageError(f"a context of {loaded.context_length} tokens is too short for every phase")
            raise output.UsageError(f"--phase {', '.join(phase or ())}: this model's phases are {names}")
        prober = Prober(runner.info.isa, runner.info.threads)
        runs, limits = runner.measure(chosen, prober, repeat, output.note)
        passes = runner.timed_passes(prober, output.note) if ops else []
        del prober  # its buffers, before the kernels' weights
        timed = []
        if ops:
            try:
                kernels = Kernels(runner.info.isa, runner.info.threads, tuning=runner.info.tuning)
                timed = runner.operations(passes, kernels, output.note)
            except (MemoryError, PellucidError) as error:
                output.note(f"operations are left out: {error or 'out of memory'}")
        document = report.document(runner, runs, limits, timed)
    compared = {} if earlier is None else {"compared": history.compare(document, earlier)}
    if json:
        output.document({**document, **compared})
    else:
        rows = report.rows(document)
        if compare is not None and compared:
            rows += history.rows(compared["compared"], compare, report.COLUMNS)
        output.table(rows, right=(1, 2, 3, 4, 5, 6), gap=1)
    if save is not None:  # last: the results are shown even if they cannot be written
        try:
            output.note(f"written to {history.save(document, save)}")
        except ValueError as error:  # for example, the folder has been removed meanwhile
            raise PellucidError(f"--save={save}: {error}") from None
