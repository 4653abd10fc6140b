"""Runs the rows of a file through a model, and writes their results to another file."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

from pellucid.batch import tasks
from pellucid.batch.source import Row, key_of
from pellucid.batch.target import Target
from pellucid.errors import PellucidError
from pellucid.model import Model
from pellucid.openai.fields import Call
from pellucid.results import Completion
from pellucid.schedule.many import check_options

__all__ = ["Counts", "run"]


@dataclass(slots=True)
class Counts:
    """Counts of a run. rows: those that were read; before: those of them that an earlier run did; done: those that this
    one did; errors: those of these that failed, whose lines give an error; tokens: new tokens, or scored or embedded
    texts."""

    rows: int = 0
    before: int = 0
    done: int = 0
    errors: int = 0
    tokens: int = 0


@dataclass(slots=True)
class _Work:
    """A row whose choices run. found: the result of each; failed: one of them did, and the row's line is written."""

    row: Row
    call: Call | None
    found: list[Completion | None]
    failed: bool = False


class _Run:
    def __init__(self, target: Target, keeps: bool, progress: Callable[[Counts], None] | None) -> None:
        self.target, self.keeps, self.progress = target, keeps, progress
        self.counts = Counts()

    def todo(self, rows: Iterable[Row]) -> Iterator[Row]:
        for row in rows:
            self.counts.rows += 1
            if key_of(row.id) in self.target.done:
                self.counts.before += 1
            else:
                yield row

    def write(self, line: dict[str, Any], tokens: int = 0) -> None:
        self.target.write(line)
        self.counts.done += 1
        self.counts.tokens += tokens
        if self.progress is not None:
            self.progress(self.counts)

    def wrong(self, row: Row, error: Exception, call: Call | None = None) -> None:
        """Writes the line of a row that failed, or raises."""
        if not tasks.is_the_rows(error):
            raise error
        names = {} if call is None else call.names
        if not self.keeps:
            told = tasks.error_line(row, False, error, names)["error"]["message"]
            raise PellucidError(f"{row.place}: {told}") from error
        self.counts.errors += 1
        self.write(tasks.error_line(row, row.is_call, error, names))


def run(
    model: Model,
    rows: Iterable[Row],
    target: Target,
    task: str,
    *,
    at_once: int = 32,
    seed: int | None = 0,
    keep_errors: bool = True,
    options: Mapping[str, Any] | None = None,
    progress: Callable[[Counts], None] | None = None,
) -> Counts:
    """Runs the rows that are not in `target` yet. task: one of `tasks.TASKS`. options: the library's, for all rows.
    Raises PellucidError: for a file, or with keep_errors=False for a row, which it names, or if the model cannot do the
    task; OutOfMemoryError; ValueError for `pooling`."""
    one = _Run(target, keep_errors, progress)
    given = options or {}
    # First the errors of the model or the options, which do not depend on rows.
    _ = model.tokenizer  # raises if it cannot be used
    if task in ("generate", "chat"):
        check_options(model.core, given)
        _generate(model, one, rows, tasks.Generation(model, task, seed), at_once, given)
    elif task == "score":
        model.core.decoder()
        _in_parts(one, rows, at_once, lambda texts: model.score(texts), tasks.score_line)
    else:
        model.embed([], **given)
        _in_parts(one, rows, at_once, lambda texts: model.embed(texts, **given), tasks.embed_line)
    target.flush()
    return one.counts


def _generate(
    model: Model, one: _Run, rows: Iterable[Row], task: tasks.Generation, at_once: int, options: Mapping[str, Any]
) -> None:
    running: dict[int, tuple[_Work, int]] = {}  # a row's work, and which of its choices

    def items() -> Iterator[dict[str, Any]]:
        number = 0
        for row in one.todo(rows):
            try:
                made, call = task.work(row)
            except Exception as error:
                one.wrong(row, error)
                continue
            work = _Work(row, call, [None] * len(made))
            for choice, item in enumerate(made):
                if work.failed:
                    break
                running[number] = work, choice
                number += 1
                yield item

    for number, result in model.map(items(), at_once=at_once, order="done", on_error="return", **options):
        work, choice = running.pop(number)
        if isinstance(result, Exception):
            if not work.failed:
                work.failed = True
                one.wrong(work.row, result, work.call)
        else:
            work.found[choice] = result
            whole = [done for done in work.found if done is not None]
            if len(whole) == len(work.found):
                one.write(task.line(work.row, work.call, whole), sum(len(done.ids) for done in whole))


def _in_parts(
    one: _Run,
    rows: Iterable[Row],
    at_once: int,
    several: Callable[[list[Any]], Iterable[Any]],
    line: Callable[[Row, Any], dict[str, Any]],
) -> None:
    """Runs `at_once` texts at a time; if they fail together, each of them alone."""
    todo = one.todo(rows)
    while part := list(islice(todo, at_once)):
        texts: list[tuple[Row, Any]] = []
        for row in part:
            try:
                texts.append((row, tasks.text_of(row)))
            except Exception as error:
                one.wrong(row, error)
        try:
            found = list(several([text for _, text in texts])) if texts else []
        except Exception as together:
            if not tasks.is_the_rows(together):
                raise
            for row, text in texts:
                try:
                    (result,) = several([text])
                except Exception as error:
                    one.wrong(row, error)
                else:  # outside the `try`, since an error of OUT is not the row's
                    one.write(line(row, result), 1)
            continue
        for (row, _), result in zip(texts, found, strict=True):
            one.write(line(row, result), 1)
