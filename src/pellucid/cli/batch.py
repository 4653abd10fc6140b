"""`pellucid batch`: runs a model on the rows of a file."""

from __future__ import annotations

import os
import re
import sys
import time
from typing import Annotated, Any

import typer

from pellucid.cli import options, output
from pellucid.cli.sampling import arguments, sampling_options
from pellucid.errors import one_line
from pellucid.sampling import SamplingOptions

_TASKS = ("generate", "chat", "score", "embed")
_SLURM = "SLURM_ARRAY_TASK_ID"
_INDEXES = ("JOB_COMPLETION_INDEX", _SLURM)
_EVERY = 10.0  # seconds between two lines on stderr


@sampling_options
def batch(
    source: Annotated[
        str,
        typer.Argument(metavar="IN", show_default=False, help="Lines of JSON or a .parquet file; -: standard input."),
    ],
    target: Annotated[
        str,
        typer.Argument(
            metavar="OUT",
            show_default=False,
            help="Lines of JSON, one for each row. {shard} is replaced by K of --shard.",
        ),
    ],
    model: options.ModelName = options.DEFAULT,
    task: Annotated[
        str,
        typer.Option(metavar="TASK", help='"generate", "chat" (a prompt is a message), "score" or "embed".'),
    ] = "generate",
    shard: Annotated[
        str | None,
        typer.Option(
            metavar="K/N",
            help="Run share K of N, counted from 0; /N: K is the index in a job array (Kubernetes, Slurm)."
            " Default: all.",
        ),
    ] = None,
    columns: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="In a .parquet file: read this column, besides the id; may be given several times. Default: all that "
            "are prompts or options.",
        ),
    ] = None,
    at_once: Annotated[int, typer.Option(metavar="N", min=1, max=65536, help="Rows that run together.")] = 32,
    errors: Annotated[
        str,
        typer.Option(metavar="keep|stop", help="At an invalid row: write a line that says so and continue, or stop."),
    ] = "keep",
    max_tokens: Annotated[
        int, typer.Option("-n", "--max-tokens", metavar="N", help="Maximum number of new tokens of a row.")
    ] = SamplingOptions().max_tokens or 0,
    stop: Annotated[
        list[str] | None, typer.Option(metavar="TEXT", help="Stop before this text; may be given several times.")
    ] = None,
    template: options.Template = None,
    pooling: options.PoolingKind = None,
    threads: options.Threads = None,
    context: options.Context = None,
    isa: options.Isa = None,
    kv: options.Kv = "auto",
    cache_bytes: options.CacheBytes = None,
    quantize: options.Quantize = None,
    share: options.Share = False,
    json: options.Json = False,
    seed: Annotated[
        int,
        typer.Option(
            metavar="S",
            help="Seed of the run; each row's seed is derived from it and the row's id.",
            rich_help_panel="Sampling",
        ),
    ] = 0,
    **sampling: Any,
) -> None:
    """Generates, scores or embeds for each row of a file, exactly once; a stopped run resumes.

    A row has an id ("id" or "custom_id"; otherwise its number), a "prompt", "messages" or "text", and may have options
    of its own; or it is a line of OpenAI's batch files ("custom_id" and "body"). Rows whose ids are already in OUT are
    skipped. Each row has its own seed, derived from --seed and its id.
    """
    from pellucid.batch.run import run
    from pellucid.batch.source import is_table, read
    from pellucid.batch.target import Target
    from pellucid.generation import parse_options

    if task not in _TASKS:
        raise output.UsageError(f"--task={one_line(task, 40)!r}: expected {', '.join(_TASKS[:-1])} or {_TASKS[-1]}")
    if errors not in ("keep", "stop"):
        raise output.UsageError(f"--errors={one_line(errors, 40)!r}: expected keep or stop")
    for name, value, tasks in (("template", template, ("generate", "chat")), ("pooling", pooling, ("embed",))):
        if value is not None and task not in tasks:
            raise output.UsageError(f"--{name}: applies only to --task {' or '.join(tasks)}")
    if target == "-":
        raise output.UsageError("OUT is -; expected a file, so that a stopped run can resume")
    if is_table(target):
        raise output.UsageError(
            f"OUT is {one_line(target, 60)}; expected a name for lines of JSON, to which a resumed run can append"
        )
    if columns and not is_table(source):
        raise output.UsageError("--columns: applies only to a .parquet file")
    part = _shard(shard)
    if "{shard}" in target:
        target = target.replace("{shard}", str(part.index))
    if source == "-" and sys.stdin is None:
        raise output.UsageError("IN is -, and standard input is closed: there is nothing to read")
    if source != "-" and os.path.exists(target) and os.path.exists(source) and os.path.samefile(source, target):
        raise output.UsageError(f"OUT is IN, {one_line(source, 60)}; expected another file")
    asked = {"max_tokens": max_tokens, "stop": options.arguments(stop, "--stop"), **arguments(sampling)}
    with options.naming(*asked, "seed"):  # before anything is downloaded
        parse_options({**asked, "seed": seed})
    given = {"generate": asked, "chat": asked, "score": {}, "embed": {} if pooling is None else {"pooling": pooling}}[
        task
    ]
    if template is not None:
        given = {**given, "template": options.read_template(template)}
    if source != "-" and (not os.path.exists(source) or os.path.isfile(source) or os.path.isdir(source)):
        with open(source, "rb"):  # an error before the model is loaded; a FIFO can be opened once
            pass
    start = time.monotonic()
    with (
        Target(target) as out,
        options.load(
            model,
            threads=threads,
            context=context,
            isa=isa,
            kv=kv,
            cache_bytes=cache_bytes,
            quantize=quantize,
            share=share,
        ) as loaded,
        options.naming("pooling"),
    ):
        if not out.locked:
            output.note(f"{one_line(target, 80)} is on a file system without locks: let no other process write to it")
        counts = run(
            loaded,
            read(source, part, columns or None),
            out,
            task,
            at_once=at_once,
            seed=seed,
            keep_errors=errors == "keep",
            options=given,
            progress=_Progress(),
        )
    seconds = time.monotonic() - start
    if json:
        output.document(
            {
                "rows": counts.rows,
                "before": counts.before,
                "done": counts.done,
                "errors": counts.errors,
                "tokens": counts.tokens,
                "seconds": seconds,
            }
        )
        return
    output.note(
        f"{counts.rows:,} rows: {counts.before:,} done before, {counts.done:,} now, {counts.errors:,} of them errors; "
        f"{seconds:.1f} s"
    )


def _shard(given: str | None) -> Any:
    from pellucid.batch.source import Shard

    if given is None:
        return Shard()
    match = re.fullmatch(r"([0-9]{0,6})/([0-9]{1,6})", given)
    if match is None:
        index, count = -1, 0
    else:
        count = int(match[2])
        index = int(match[1]) if match[1] else _of_array(given, count)
    if not 0 <= index < count:
        raise output.UsageError(f"--shard={one_line(given, 40)!r}: expected K/N, with K from 0 to N - 1")
    return Shard(index, count)


def _of_array(given: str, count: int) -> int:
    """The share of this task of a job array. A Slurm array may begin with any number; a complete one has a share for
    each of its tasks. If only some tasks are submitted again, the beginning of the complete array is known only if it
    is 0."""
    found = [(name, number) for name in _INDEXES if (number := _variable(name)) is not None]
    if not found:
        raise output.UsageError(f"--shard={given}: expected {' or '.join(_INDEXES)} in the environment")
    name, index = found[0]
    first = 0 if name != _SLURM else _variable("SLURM_ARRAY_TASK_MIN") or 0
    if not first:
        return index
    last, tasks = (_variable(f"SLURM_ARRAY_TASK_{name}") for name in ("MAX", "COUNT"))
    if not tasks == count == (last or 0) - first + 1:
        raise output.UsageError(
            f"--shard={given}: the job array begins at {first} and is not {count} tasks in a row, so task {index} "
            f"may be any share; expected K/{count}, such as ${_SLURM}/{count}, or an array that begins at 0"
        )
    return index - first


def _variable(name: str) -> int | None:
    text = os.environ.get(name, "")
    return int(text) if text.isdecimal() and len(text) < 10 else None


class _Progress:
    """A line on stderr every few seconds."""

    def __init__(self) -> None:
        self._start = self._last = time.monotonic()

    def __call__(self, counts: Any) -> None:
        now = time.monotonic()
        if now - self._last < _EVERY or not sys.stderr or not sys.stderr.isatty():
            return
        self._last = now
        rate = counts.done / (now - self._start)
        output.note(f"{counts.done:,} rows ({rate:.1f}/s), {counts.errors:,} errors")
