"""Generation and scores on a Ray cluster: `generate` and `score` of a Dataset, `deployment` for Ray Serve.

Needs the extra `ray`. Every actor holds the whole model; rows are shared among them. See docs/ray.md.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any, Literal

try:
    import pyarrow
    import ray
    from ray.data import ActorPoolStrategy, Dataset
except ImportError as error:
    raise ImportError(f"pellucid.adapters.ray needs the extra ray: {error}") from None

from pellucid import Model
from pellucid.adapters.ray_place import FREE, common_isa, cpus_of_nodes, place_of, refuse_to_hang
from pellucid.adapters.shared import loaded
from pellucid.errors import WrongType, WrongValue, shown
from pellucid.schedule.many import check_options, of_item, seed_of

__all__ = ["Generate", "Score", "deployment", "generate", "score"]


def generate(
    ds: Dataset,
    source: str,
    *,
    prompt: str | None = None,
    messages: str | None = None,
    output: str = "text",
    id: str | None = None,
    seed: int | None = None,
    actors: int | Literal["nodes"] = "nodes",
    cpus: float | None = None,
    at_once: int = 32,
    batch_size: int = 256,
    on_error: Literal["raise", "column"] = "raise",
    load: Mapping[str, Any] | None = None,
    **options: Any,
) -> Dataset:
    """Generates from each row of a dataset -> the dataset with the columns `output`, finish_reason, prompt_tokens and
    new_tokens. It runs when the dataset is consumed.

    source: the path of a model, the same on every node, or a name of the catalogue.
    prompt, messages: the column of prompts, or of conversations; default: "prompt".
    id: a column that is different in each row: its row draws with a seed made of `seed` (0 unless it is given) and it,
        as in `pellucid batch`, so that the row gives the same text however often it is tried and wherever it runs.
        Without it, rows have random seeds.
    actors: processes that hold the model; "nodes": one for each node. cpus: logical CPUs of each, which are also its
        threads; default: what leaves two of each node free, and with one actor a node its physical cores as threads.
    at_once: rows of an actor that are generated together. batch_size: rows that an actor takes at a time, and that are
        computed again if it fails.
    on_error: "column": a wrong row has null as its text, and the reason in a further column, error; "raise": it fails
        the job.
    load: options of `Model.load`. `kv` is "f16" by default, which every processor has. If the nodes' best instruction
        sets differ, the best one that all have is used, and a warning logged: results are the same, bit for bit, on all
        of them.
    options: those of `Model.map`, such as max_tokens and temperature.

    Raises PellucidError if the job would never begin: the cluster has too few CPUs, counting the pools of actors that
    `ds` has already, or others have held too many of them for some seconds; ValueError, TypeError for a wrong argument,
    such as a column with the name of one that is added.
    """
    column = "prompt" if prompt is None and messages is None else prompt
    arguments: dict[str, Any] = {"prompt": column, "messages": messages, "output": output, "id": id, "seed": seed}
    arguments |= {"at_once": at_once, "on_error": on_error, **options}
    return _mapped(ds, Generate, source, actors, cpus, batch_size, load, arguments)


def score(
    ds: Dataset,
    source: str,
    *,
    text: str = "text",
    actors: int | Literal["nodes"] = "nodes",
    cpus: float | None = None,
    at_once: int = 32,
    batch_size: int = 256,
    on_error: Literal["raise", "column"] = "raise",
    load: Mapping[str, Any] | None = None,
    window: int | None = None,
) -> Dataset:
    """Scores the texts of a column -> the dataset with the columns logprob, tokens and perplexity. Arguments and errors
    as in `generate`; window: as in `Model.score`."""
    arguments = {"text": text, "at_once": at_once, "on_error": on_error, "window": window}
    return _mapped(ds, Score, source, actors, cpus, batch_size, load, arguments)


class _OnBatches:
    """What the classes for `Dataset.map_batches` have in common. Batches are tables of Arrow, data frames of pandas, or
    dicts of arrays."""

    def __init__(self, source: str, load: Mapping[str, Any] | None, at_once: int, on_error: str) -> None:
        self.keeps, self.at_once = on_error == "column", at_once
        self.model = _loaded(source, load or {})
        _ = self.model.tokenizer  # raises if it cannot be used, whatever the rows

    def results(self, found: Sequence[Any], columns: Mapping[str, tuple[Any, Callable[[Any], Any]]]) -> dict[str, Any]:
        """Columns of results, some of which may be errors. columns: name -> (type, its value from a result)."""
        made = {
            name: pyarrow.array([None if isinstance(one, Exception) else of(one) for one in found], kind)
            for name, (kind, of) in columns.items()
        }
        if self.keeps:
            texts = [str(one) if isinstance(one, Exception) else None for one in found]
            made["error"] = pyarrow.array(texts, pyarrow.string())
        return made

    def checked(self, one: Any) -> Any:
        """A result, or the error of a row. Raises errors that are not the row's."""
        if isinstance(one, Exception) and not of_item(one):
            raise one
        return one


class Generate(_OnBatches):
    """`generate` for your own `Dataset.map_batches`: the same arguments, except those of actors."""

    def __init__(
        self,
        source: str,
        *,
        prompt: str | None = None,
        messages: str | None = None,
        output: str = "text",
        id: str | None = None,
        seed: int | None = None,
        at_once: int = 32,
        on_error: str = "raise",
        load: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> None:
        self.check(prompt=prompt, messages=messages, output=output, id=id, seed=seed, on_error=on_error)
        super().__init__(source, load, at_once, on_error)
        self.column, self.chats = prompt or messages or "", messages is not None
        self.output, self.id, self.seed, self.options = output, id, seed or 0, options
        check_options(self.model.core, options)

    @staticmethod
    def check(
        *,
        prompt: str | None = None,
        messages: str | None = None,
        output: str = "text",
        id: str | None = None,
        seed: int | None = None,
        on_error: str = "raise",
        **options: Any,
    ) -> None:
        if (prompt is None) == (messages is None):
            raise WrongValue("prompt", ": expected the name of a column, or messages, not both")
        if seed is not None and id is None:
            raise WrongValue("seed", f"={shown(seed)}: needs id, a column that is different in each row")
        if output in (prompt, messages, id):
            raise WrongValue("output", f"={shown(output)}: a column that is read; give the new one another name")
        _check_errors(on_error)
        made = ("finish_reason", "prompt_tokens", "new_tokens")
        _check_columns(made, on_error, output=output, prompt=prompt, messages=messages, id=id)

    def __call__(self, batch: Any) -> Any:
        asked = _column(batch, self.column)
        ids = None if self.id is None else _column(batch, self.id)
        items = [{"messages" if self.chats else "prompt": one} for one in asked]
        seeds = None if ids is None else [seed_of(self.seed, one) for one in ids]
        running = self.model.map(
            items,
            seeds=seeds,
            at_once=self.at_once,
            on_error="return" if self.keeps else "raise",
            **self.options,
        )
        number = pyarrow.int32()
        columns: dict[str, tuple[Any, Callable[[Any], Any]]] = {
            self.output: (pyarrow.string(), lambda done: done.text),
            "finish_reason": (pyarrow.string(), lambda done: done.finish_reason),
            "prompt_tokens": (number, lambda done: done.prompt_tokens),
            "new_tokens": (number, lambda done: len(done.ids)),
        }
        return _with(batch, self.results([self.checked(one) for one in running], columns))


def _check_errors(on_error: str) -> None:
    if on_error not in ("raise", "column"):
        raise WrongValue("on_error", f"={shown(on_error)}: expected raise or column")


def _check_columns(made: Sequence[str], on_error: str, **columns: str | None) -> None:
    """Raises WrongValue if an argument names one of the columns that are added, which would replace it. columns: by
    argument."""
    added = [*made, "error"] if on_error == "column" else list(made)
    for argument, name in columns.items():
        if name in added:
            names = ", ".join(added)
            raise WrongValue(argument, f"={shown(name)}: expected another name than {names}, which are added")


def _perplexity(found: Any) -> float | None:
    perplexity: float = found.perplexity
    return perplexity if math.isfinite(perplexity) else None


class Score(_OnBatches):
    """`score` for your own `Dataset.map_batches`."""

    def __init__(
        self,
        source: str,
        *,
        text: str = "text",
        at_once: int = 32,
        on_error: str = "raise",
        load: Mapping[str, Any] | None = None,
        window: int | None = None,
    ) -> None:
        self.check(text=text, on_error=on_error)
        super().__init__(source, load, at_once, on_error)
        self.text, self.window = text, window

    @staticmethod
    def check(*, text: str = "text", on_error: str = "raise", **options: Any) -> None:
        _check_errors(on_error)
        _check_columns(("logprob", "tokens", "perplexity"), on_error, text=text)

    def __call__(self, batch: Any) -> Any:
        running = self.model.score_map(
            list(_column(batch, self.text)),
            at_once=self.at_once,
            window=self.window,
            on_error="return" if self.keeps else "raise",
        )
        columns: dict[str, tuple[Any, Callable[[Any], Any]]] = {
            "logprob": (pyarrow.float64(), lambda found: found.total),
            "tokens": (pyarrow.int32(), lambda found: len(found.tokens)),
            "perplexity": (pyarrow.float64(), _perplexity),
        }
        return _with(batch, self.results([self.checked(one) for one in running], columns))


def deployment(
    source: str,
    *,
    name: str = "default",
    cpus: float | None = None,
    replicas: int = 1,
    load: Mapping[str, Any] | None = None,
    api_key: str | None = None,
    hosts: Sequence[str] = (),
) -> Any:
    """A deployment for Ray Serve: `serve.run(deployment(...).bind())`.

    Over HTTP it has the routes of `pellucid serve`. Its methods for handles, `complete` and `chat`, are asynchronous
    generators; they take a dict with one of `prompt`, `prompt_ids` and `messages`, and options of `Model.submit`, and
    yield the completion as a dict; with ``"stream": True``, its pieces as they are made.

    name: of the model, for clients. cpus: logical CPUs of a replica, which are also its threads; default: its share of
    a node. load: options of `Model.load`; unless they have `isa`, a replica uses the best instruction set of its node.
    api_key: the key that requests over HTTP must have. hosts: names under which clients reach Serve; loopback names and
    addresses are always accepted.

    Raises PellucidError if even an idle cluster would have no room for the replicas, which would never be ready. Serve
    waits for CPUs that others hold.
    """
    from ray import serve

    given = dict(load or {})
    place = place_of(cpus_of_nodes(), replicas, cpus, 0, "replicas")
    given.setdefault("threads", place.threads)
    settings = {"names": (name,), "api_key": api_key, "hosts": tuple(hosts)}
    wrapped = serve.ingress()(_Replica)
    made = serve.deployment(
        wrapped,
        name="Pellucid",
        num_replicas=replicas,
        ray_actor_options={"num_cpus": place.cpus},
        max_ongoing_requests=64,
    )
    return _Bound(made, (source, given, settings))


class _Bound:
    """A deployment whose arguments are given; `options` as in Serve's."""

    def __init__(self, made: Any, arguments: tuple[Any, ...]) -> None:
        self._made, self._arguments = made, arguments

    def options(self, **options: Any) -> _Bound:
        return _Bound(self._made.options(**options), self._arguments)

    def bind(self) -> Any:
        return self._made.bind(*self._arguments)


class _Replica:
    def __init__(self, source: str, load: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
        self.model = _loaded(source, load)
        self.settings = settings

    def __serve_build_asgi_app__(self) -> Any:
        from pellucid.server.access import Key
        from pellucid.server.app import make_app
        from pellucid.server.service import Service
        from pellucid.server.settings import Settings

        given = self.settings
        keys = () if given["api_key"] is None else (Key.of(given["api_key"]),)
        settings = Settings(names=given["names"], keys=keys, bound="0.0.0.0", hosts=given["hosts"])
        return make_app(Service(settings, self.model))

    async def complete(self, request: Mapping[str, Any]) -> AsyncIterator[dict[str, Any]]:
        async for one in _answers(self.model, request):
            yield one

    async def chat(self, request: Mapping[str, Any]) -> AsyncIterator[dict[str, Any]]:
        if "messages" not in request:
            raise WrongValue("messages", " is missing")
        async for one in _answers(self.model, request):
            yield one

    async def stats(self) -> dict[str, Any]:
        """The numbers of running and waiting requests, and the process."""
        import os

        found = self.model.stats()
        return {"pid": os.getpid(), "running": found.running, "waiting": found.waiting}

    def check_health(self) -> None:
        self.model.stats()  # raises if it is closed


async def _answers(model: Model, request: Mapping[str, Any]) -> AsyncIterator[dict[str, Any]]:
    options = dict(request)
    streams = options.pop("stream", False)
    for added in ("request_id", "idx_in_batch"):  # by Ray's own processors
        options.pop(added, None)
    if "n" in options:
        raise WrongValue("n", ": ask several times, with seeds")
    running = model.submit(**options)
    try:
        if not streams:
            done: Any = await running
            yield done.to_dict()
            return
        async for piece in running:
            yield {"text": piece.text, "ids": piece.ids, "finish_reason": piece.finish_reason}
    finally:
        running.cancel()


def _mapped(
    ds: Dataset,
    kind: type[Generate] | type[Score],
    source: str,
    actors: Any,
    cpus: float | None,
    batch_size: int,
    load: Mapping[str, Any] | None,
    arguments: dict[str, Any],
) -> Dataset:
    kind.check(**arguments)
    if not isinstance(source, str):
        raise WrongType("source", f" must be a path or a name, not {type(source).__name__}: each actor loads the model")
    nodes = cpus_of_nodes()
    place = place_of(nodes, actors, cpus, FREE, "actors")
    refuse_to_hang(ds, nodes, place)
    given = {"threads": place.threads, **(load or {})}
    if given.get("isa") is None and (isa := common_isa()) is not None:
        given["isa"] = isa
    # Blocks no larger than a batch, so that even one large file is shared, and is checkpointed as it is done.
    return ds.repartition(target_num_rows_per_block=batch_size).map_batches(
        kind,
        fn_constructor_args=(source,),
        fn_constructor_kwargs={"load": given, **arguments},
        batch_size=batch_size,
        batch_format="pyarrow",
        compute=ActorPoolStrategy(size=place.number),
        num_cpus=place.cpus,
    )


# ---- in an actor ---------------------------------------------------------------------------------------------------
def _loaded(source: str, load: Mapping[str, Any]) -> Model:
    given = {"kv": "f16", **load}
    if "threads" not in given:  # Ray sets OMP_NUM_THREADS, which has no effect here
        assigned = ray.get_runtime_context().get_assigned_resources().get("CPU", 1.0)
        given["threads"] = max(1, math.floor(assigned))
    return loaded(source, given)


def _column(batch: Any, name: str) -> Any:
    """A column of a batch: Arrow's, pandas' or NumPy's. Raises ValueError if it has none of this name."""
    names = list(batch.column_names) if isinstance(batch, pyarrow.Table) else list(batch)
    if name not in names:
        raise WrongValue("column", f" {shown(name)} is not there: there are {', '.join(map(str, names))}")
    column = batch[name]
    return column.to_pylist() if isinstance(batch, pyarrow.Table) else list(column)


def _with(batch: Any, columns: Mapping[str, Any]) -> Any:
    """The batch with these columns, in place of those of the same name."""
    if isinstance(batch, pyarrow.Table):
        for name, column in columns.items():
            if name in batch.column_names:
                batch = batch.set_column(batch.column_names.index(name), name, column)
            else:
                batch = batch.append_column(name, column)
        return batch
    arrays = {name: column.to_numpy(zero_copy_only=False) for name, column in columns.items()}
    return {**batch, **arrays} if isinstance(batch, dict) else batch.assign(**arrays)
