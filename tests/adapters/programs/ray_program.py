"""Ray Data and Ray Serve with two actors on four logical CPUs: 200 rows, a failure, an actor that is killed, a job that
is resumed; two replicas, a stream whose client goes away."""

from __future__ import annotations

import contextlib
import http.client
import json
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow
import ray
from pyarrow import parquet
from ray import serve
from ray.data.checkpoint import CheckpointConfig

from pellucid import Model
from pellucid.adapters import ray as adapter
from pellucid.adapters import ray_place
from pellucid.adapters.ray_place import Pool, enough
from pellucid.errors import PellucidError
from pellucid.schedule.many import seed_of
from pellucid.text.base import NoTokenizerError

path, folder = sys.argv[1], Path.cwd() / "ray-data"
WORDS = ("sea", "river", "old house", "cat", "winter", "morning")
prompts = {f"row {i}": f"The {WORDS[i % 6]} {i}" for i in range(200)}
OPTIONS: dict[str, Any] = {"max_tokens": 3, "temperature": 1.0}
messages = [{"role": "user", "content": "Name a colour."}]

(folder / "in").mkdir(parents=True)
ids = list(prompts)
for part in range(4):
    some = ids[part * 50 : part * 50 + 50]
    table = pyarrow.table({"id": some, "prompt": [prompts[one] for one in some]})
    parquet.write_table(table, folder / "in" / f"{part}.parquet")
with Model.load(path, kv="f16", threads=2) as model:
    expected = {
        id: done.text
        for id, done in zip(ids, model.map(prompts.values(), seeds=(seed_of(7, id) for id in ids), **OPTIONS))
    }
    scored = [one.total for one in model.score(["The sky is blue.", "A fish."])]
    answer = model.chat(messages, max_tokens=6, temperature=0).text
    text = model.generate("The sky", max_tokens=6, temperature=0).text


def began(what: str) -> None:
    print(f"{time.monotonic() - start:6.1f} s: {what}", flush=True)


def refused(says: str, call: Callable[[], Any]) -> None:
    try:
        call()
    except (PellucidError, ValueError, TypeError) as error:
        assert says in str(error), error
    else:
        raise AssertionError(says)


place = ray_place.place_of
for nodes, actors, cpus, free, found in (
    ([4.0], "nodes", None, 2, (1, 2, None)),  # threads: its physical cores
    ([4.0], 2, None, 2, (2, 1, 1)),
    ([4.0], 2, 1, 2, (2, 1, 1)),
    ([4.0, 4.0, 16.0], "nodes", None, 2, (3, 2, None)),
    ([64.0] * 10, "nodes", None, 2, (10, 62, None)),
    ([64.0] * 10, 20, None, 2, (20, 31, 31)),
    ([3.0], "nodes", None, 2, (1, 1, None)),
    ([2.5], "nodes", None, 2, (1, 0.5, None)),
    ([4.0], 2, None, 0, (2, 2, 2)),
):
    assert tuple(place(nodes, actors, cpus, free, "actors")) == found, (nodes, actors, cpus)
for nodes, actors, cpus, says in (
    ([2.0], "nodes", None, "1 actors of 0.5 logical CPUs each need 0.5 of them, and 2 more"),
    ([4.0, 4.0], 2, 5, "need 10 of them"),  # no node has so many
    ([4.0], 3, 1, "and 2 more"),
    ([], "nodes", None, "no node"),
    ([4.0], 0, None, "actors=0"),
    ([4.0], "all", None, "actors='all'"),
    ([4.0], 1, -1, "cpus=-1"),
):
    refused(says, partial(place, nodes, actors, cpus, 2, "actors"))
told: list[str] = []
listener = logging.Handler()
listener.emit = lambda record: told.append(record.getMessage())  # type: ignore[method-assign]
logging.getLogger("pellucid").addHandler(listener)
common = ray_place.common
assert common([["scalar", "avx2"], ["scalar", "avx2"]]) is None
assert not told
for _ in range(2):
    assert common([["scalar", "avx2", "avx512"], ["scalar", "avx2"]]) == "avx2"
assert len(told) == 1 and "(avx2, avx512): all actors use avx2" in told[0], told
assert common([["scalar", "neon"], ["scalar", "avx2"]]) == "scalar"
for free_cpus, pools, spare, room in (
    ([4.0], [(1, 2), (1, 2)], 1, False),  # nobody could read
    ([5.0], [(1, 2), (1, 2)], 1, True),
    ([5.0], [(1, 2), (1, 2)], 2, False),
    ([2.0], [(2, 1)], 1, False),
    ([3.0], [(2, 2)], 1, True),  # one of the two actors works
    ([3.0, 3.0], [(1, 4)], 1, False),  # no node has four
    ([3.0, 3.0], [(3, 2)], 1, True),
    ([1.0], [(4, 0)], 1, True),
    ([], [(1, 1)], 1, False),
):
    assert enough(free_cpus, [Pool(*one) for one in pools], spare) is room, (free_cpus, pools, spare)

kept: dict[str, Any] = {"prompt": "prompt", "on_error": "column", "load": {"threads": 2}, "max_tokens": 2}
refused("regex", lambda: adapter.Generate(path, **kept, regex="("))  # which no row can change
actor = adapter.Generate(path, **kept)
table = actor(pyarrow.table({"prompt": ["The sky", None]}))
assert table["text"].to_pylist()[0] and table["error"].to_pylist()[1]
refused("no tokenizer", partial(actor.checked, NoTokenizerError("it has no tokenizer")))
del actor


class Told(adapter.Generate):
    """Says which process did a row. On `fail` it fails at row 120, on `kill` a process is killed at its first rows,
    once: which ones the run before has left undone is chance."""

    def __call__(self, batch: Any) -> Any:
        seen = batch["id"].to_pylist()
        if "row 120" in seen and (folder / "fail").exists():  # when something is written, by a process of its own
            until = time.monotonic() + 60
            while time.monotonic() < until and not list((folder / "out").glob("*.parquet")):
                time.sleep(0.05)
            raise RuntimeError("row 120 fails")
        with contextlib.suppress(FileNotFoundError):  # of two processes, one unlinks it
            (folder / "kill").unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        made = super().__call__(batch)
        return made.append_column("pid", pyarrow.array([os.getpid()] * len(seen)))


start = time.monotonic()
ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
context = ray.data.DataContext.get_current()
context.enable_progress_bars = False
context.execution_options.verbose_progress = False
began("Ray runs")
rows = ray.data.read_parquet(str(folder / "in"))
given: dict[str, Any] = {"id": "id", "seed": 7, "actors": 2, "cpus": 1, "batch_size": 20, **OPTIONS}
refused("2 actors of 2 logical CPUs each need 4", lambda: adapter.generate(rows, path, actors=2, cpus=2))
refused("needs id", lambda: adapter.generate(rows, path, seed=7))
refused("not both", lambda: adapter.generate(rows, path, prompt="a", messages="b"))
refused("output='prompt'", lambda: adapter.generate(rows, path, output="prompt"))
for name in ("finish_reason", "prompt_tokens", "new_tokens", "error"):  # which are added beside it
    for argument in ("output", "prompt", "messages", "id"):
        named: dict[str, Any] = {argument: name, "on_error": "column"}
        refused(f"{argument}={name!r}", partial(adapter.generate, rows, path, **named))
    refused(f"output={name!r}", partial(adapter.Generate, path, prompt="prompt", output=name, on_error="column"))
for name in ("logprob", "tokens", "perplexity", "error"):
    refused(f"text={name!r}", partial(adapter.score, rows, path, text=name, on_error="column"))
adapter.Generate.check(prompt="prompt", output="error")  # no such column is added
refused("each actor loads the model", lambda: adapter.generate(rows, model))  # type: ignore[arg-type]
once: dict[str, Any] = {"actors": 1, "cpus": 1, "max_tokens": 2}
first = adapter.generate(rows, path, actors=1, cpus=2)
assert ray_place.pools_of(first) == [(1, 2)] and ray_place.pools_of(first.union(first, rows)) == [(1, 2)]
unexpected: Any = object()
assert ray_place.pools_of(rows) == [] == ray_place.pools_of(unexpected)
says = "1 actors of 2 logical CPUs each, with those of the dataset's steps before (1 of 2), need 4 of them, and 1 more"
refused(says, lambda: adapter.score(first, path, actors=1, cpus=2))
chained = adapter.score(adapter.generate(rows.limit(3), path, **once), path, text="prompt", actors=1, cpus=1)
assert all(row["text"] and row["logprob"] < 0 for row in chained.take_all())
began("two pools that have room, one after the other")


@ray.remote
class Other:
    def ready(self) -> bool:
        return True


others = [Other.options(num_cpus=1).remote() for _ in range(2)]  # type: ignore[attr-defined]
ray.get([other.ready.remote() for other in others])
refused("of the Ray cluster's 4, 2 are free", lambda: adapter.generate(rows, path, actors=2, cpus=1))
assert len(adapter.generate(rows.limit(3), path, **once).take_all()) == 3, "one CPU is left"
ray.kill(others.pop())
ray.kill(others.pop())  # whose CPUs the next job finds within some seconds
began("CPUs that others hold")
refused("5 replicas", lambda: adapter.deployment(path, replicas=5, cpus=1))

plain = ray.data.Dataset.map_batches
ray.data.Dataset.map_batches = lambda ds, kind, **more: plain(ds, Told, **more)
done = adapter.generate(rows, path, **given).take_all()
assert {row["id"]: row["text"] for row in done} == expected and len(done) == 200
assert len({row["pid"] for row in done}) == 2, "both actors have a share"
assert all(row["new_tokens"] <= 3 and row["prompt_tokens"] > 1 for row in done)
began("200 rows as in one process")

context.checkpoint_config = CheckpointConfig(id_column="id", checkpoint_path=str(folder / "checkpoints"))
rows = ray.data.read_parquet(str(folder / "in"))  # with the context that says where checkpoints are
(folder / "fail").touch()
with contextlib.suppress(Exception):
    adapter.generate(rows, path, **given).write_parquet(str(folder / "out"))
    raise SystemExit("it did not fail")
found = sum(parquet.read_metadata(one).num_rows for one in (folder / "out").glob("*.parquet"))
assert 0 < found < 200, found
began(f"failed after {found} rows")
(folder / "fail").unlink()
(folder / "kill").touch()
adapter.generate(rows, path, **given).write_parquet(str(folder / "out"))
assert not (folder / "kill").exists(), "no actor was killed"
table = parquet.read_table(folder / "out")
assert table.num_rows == 200
assert dict(zip(table["id"].to_pylist(), table["text"].to_pylist())) == expected
context.checkpoint_config = None
ray.data.Dataset.map_batches = plain
began("resumed, with an actor killed: each row once, the same texts")

few = ray.data.from_items([{"text": "The sky is blue."}, {"text": "A fish."}, {"text": None}])
found_scores = adapter.score(few, path, actors=1, cpus=1, on_error="column").take_all()
by_text = {row["text"]: row for row in found_scores}
assert [by_text[one]["logprob"] for one in ("The sky is blue.", "A fish.")] == scored
assert by_text[None]["error"] and by_text[None]["logprob"] is None and by_text["A fish."]["error"] is None
began("scores")

with socket.socket() as unused:
    unused.bind(("127.0.0.1", 0))
    port = unused.getsockname()[1]
made = adapter.deployment(path, name="smol", replicas=2, cpus=1, api_key="secret")
serve.start(http_options={"host": "127.0.0.1", "port": port})
handle = serve.run(made.bind(), name="smol", route_prefix="/")
refused("of the Ray cluster's 4, 2 are free", lambda: adapter.generate(rows, path, actors=2, cpus=1))
began("two replicas")


def post(key: str = "secret", **fields: Any) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
    body = json.dumps({"model": "smol", "messages": messages, **fields})
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {key}"}
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("POST", "/v1/chat/completions", body, headers)
    return connection, connection.getresponse()


def stats() -> dict[int, int]:
    """Requests that run, by process: of both replicas, however many questions it takes. Serve chooses who answers one,
    and prefers the idle."""
    found: dict[int, int] = {}
    until = time.monotonic() + 60
    while len(found) < 2:
        assert time.monotonic() < until, f"only {len(found)} of two replicas answer"
        asked = [handle.stats.remote() for _ in range(8)]
        found |= {one["pid"]: one["running"] for one in (each.result(timeout_s=60) for each in asked)}
    return found


assert post("wrong")[1].status == 401
whole = json.load(post(max_tokens=6, temperature=0)[1])
assert whole["choices"][0]["message"]["content"] == answer and whole["model"] == "smol", whole
lines = post(max_tokens=6, temperature=0, stream=True)[1].read().decode().split("\n\n")
deltas = [json.loads(line[6:])["choices"][0]["delta"] for line in lines if line.startswith("data: {")]
assert "".join(one.get("content") or "" for one in deltas) == answer
streams = handle.options(stream=True)
(one,) = streams.complete.remote({"prompt": "The sky", "max_tokens": 6, "temperature": 0})
assert one["text"] == text
parts = list(streams.chat.remote({"messages": messages, "max_tokens": 6, "temperature": 0, "stream": True}))
assert "".join(one["text"] for one in parts) == answer and len(parts) > 3
assert set(stats().values()) == {0}
connection, response = post(max_tokens=4000, stream=True, temperature=0, logit_bias={"2": -100})
assert response.status == 200 and response.read(40)
assert sum(stats().values()) == 1
connection.sock.shutdown(socket.SHUT_RDWR)
connection.close()
until = time.monotonic() + 20
while sum(stats().values()):
    assert time.monotonic() < until, "the stream goes on"
    time.sleep(0.1)
began("a stream ended with its client")
serve.shutdown()
ray.shutdown()
print("fine")
