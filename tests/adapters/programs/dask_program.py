"""Dask with two processes, and joblib: 200 rows are those of one process."""

from __future__ import annotations

import os
import sys
from typing import Any

import pandas
from dask import dataframe
from distributed import Client, LocalCluster, get_worker
from joblib import Parallel, delayed

from pellucid import Model
from pellucid.schedule.many import seed_of

OPTIONS: dict[str, Any] = {"max_tokens": 3, "temperature": 1.0}


def continued(part: pandas.DataFrame, model: Model) -> pandas.DataFrame:
    """The rows of a part, each with the text that its id draws."""
    items = [{"prompt": prompt, "seed": seed_of(7, id)} for id, prompt in zip(part["id"], part["prompt"])]
    texts = [done.text for done in model.map(items, **OPTIONS)]
    return part.assign(text=texts, pid=os.getpid())


def scores(texts: list[str], model: Model) -> tuple[int, list[float]]:
    return os.getpid(), [score.total for score in model.score(texts)]


def threads(model: Model) -> tuple[int, int]:
    return model.info().threads, get_worker().state.nthreads


def main() -> None:
    frame = pandas.DataFrame(
        {"id": range(200), "prompt": [f"The {'sea' if i % 2 else 'hill'} {i}" for i in range(200)]}
    )
    model = Model.load(sys.argv[1], threads=1, kv="f16")
    expected = continued(frame, model)["text"].tolist()
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster, Client(cluster) as client:
        parts = dataframe.from_pandas(frame, npartitions=10)
        meta = {"id": "int64", "prompt": "object", "text": "object", "pid": "int64"}
        found = parts.map_partitions(continued, model, meta=meta).compute()
        assert found["text"].tolist() == expected and found["id"].tolist() == list(range(200))
        assert os.getpid() not in set(found["pid"]) and len(set(found["pid"])) == 2
        assert client.submit(threads, model).result() == (1, 1)
    texts = frame["prompt"].tolist()
    together = Parallel(n_jobs=2)(delayed(scores)(texts[i::4], model) for i in range(4))
    assert [found for _, found in together] == [scores(texts[i::4], model)[1] for i in range(4)]
    assert os.getpid() not in {pid for pid, _ in together}
    print("fine")


if __name__ == "__main__":
    main()
