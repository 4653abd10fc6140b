"""Where the actors of pellucid.adapters.ray run, and whether they can start at all."""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Sequence
from typing import NamedTuple

import ray
from ray.data import ActorPoolStrategy, Dataset
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from pellucid import log
from pellucid.errors import PellucidError, WrongValue, shown

__all__ = ["FREE", "Place", "Pool", "common_isa", "cpus_of_nodes", "enough", "place_of", "pools_of", "refuse_to_hang"]

FREE = 2  # logical CPUs that Ray Data needs beside the actors, to read, to write and to filter what is done already
LEAST = 0.5
WAIT = 15.0  # seconds: CPUs of tasks and actors that are ending become free


class Place(NamedTuple):
    """number: of actors; cpus, threads: of each. threads: None: physical cores."""

    number: int
    cpus: float
    threads: int | None


class Pool(NamedTuple):
    """Actors of one step of a dataset. cpus: logical CPUs of each."""

    number: int
    cpus: float


def cpus_of_nodes() -> list[float]:
    """The logical CPUs of each node that has any. Starts Ray, as its own functions do, if nobody has."""
    if not ray.is_initialized():
        ray.init()
    found = [node["Resources"].get("CPU", 0.0) for node in ray.nodes() if node["Alive"]]
    return [cpus for cpus in found if cpus > 0]


def place_of(nodes: list[float], actors: int | str, cpus: float | None, free: int, what: str) -> Place:
    """Where actors go. nodes: their logical CPUs. free: how many must be left, of each node by default, of all in any
    case. Raises PellucidError if there are too few."""
    if not nodes:
        raise PellucidError("the Ray cluster has no node with CPUs")
    if actors != "nodes" and (isinstance(actors, bool) or not isinstance(actors, int) or actors < 1):
        raise WrongValue(what, f"={shown(actors)}: expected a number{' or nodes' if free else ''}")
    if cpus is not None and (isinstance(cpus, bool) or not isinstance(cpus, (int, float)) or not 0 < cpus < math.inf):
        raise WrongValue("cpus", f"={shown(cpus)}: expected a number above 0")
    number = actors if isinstance(actors, int) else len(nodes)
    each = cpus
    if each is None:
        each = (min(nodes) - free) / math.ceil(number / len(nodes))
        each = math.floor(each) if each >= 1 else LEAST
    room = sum(math.floor(node / each + 1e-6) for node in nodes)
    left = sum(nodes) - number * each
    if room < number or left < free - 1e-6:
        needs = f", and {free} more, to read, to write and to resume" if free else ""
        raise PellucidError(
            f"{number} {what} of {each:g} logical CPUs each need {number * each:g} of them{needs}; the Ray cluster has "
            f"{_sum(nodes)}: give fewer, or smaller cpus, or start Ray with more, such as ray.init(num_cpus=4)"
        )
    whole = actors == "nodes" and cpus is None
    return Place(number, each, None if whole else max(1, math.floor(each)))


def _sum(nodes: list[float]) -> str:
    return f"{' + '.join(f'{node:g}' for node in nodes[:8])}{' + ...' if nodes[8:] else ''}"


# ---- what would wait forever ---------------------------------------------------------------------------------------
def refuse_to_hang(ds: Dataset, nodes: list[float], place: Place) -> None:
    """Raises PellucidError if the actors of a new step, those of the dataset's steps before it and a task that reads
    would wait for each other: all pools of a dataset start together, and Ray reports nothing. Waits some seconds for
    CPUs that are in use."""
    if _elsewhere(ds) or _grows(nodes):
        return
    pools = [*pools_of(ds), Pool(place.number, place.cpus)]
    resumes = getattr(ds.context, "checkpoint_config", None) is not None
    spare = 2 if resumes else 1
    if not enough(nodes, pools, spare):
        raise PellucidError(
            f"{_needs(pools, spare)}; the Ray cluster has {_sum(nodes)}: give fewer actors or smaller cpus, take "
            "ds.materialize() before this step, so that the actors before it have ended, or start Ray with more CPUs"
        )
    until = time.monotonic() + WAIT
    while not enough(found := _free(), pools, spare):
        if time.monotonic() > until:
            raise PellucidError(
                f"{_needs(pools, spare)}; of the Ray cluster's {sum(nodes):g}, {sum(found):g} are free, as other "
                "actors, deployments or tasks hold the rest: end those, give fewer actors or smaller cpus, or start "
                "Ray with more CPUs"
            )
        gc.collect()  # of a job that failed: its actors end with what refers to them
        time.sleep(0.1)


def _needs(pools: Sequence[Pool], spare: int) -> str:
    *before, own = pools
    text = f"{own.number} actors of {own.cpus:g} logical CPUs each"
    if before:
        shape = " + ".join(f"{one.number} of {one.cpus:g}" for one in before[:8])
        text += f", with those of the dataset's steps before ({shape}{' + ...' if before[8:] else ''}),"
    total = sum(one.number * one.cpus for one in pools)
    return f"{text} need {total:g} of them, and {spare} more, to read{' and to resume' if spare > 1 else ''}"


def enough(nodes: list[float], pools: Sequence[Pool], spare: int) -> bool:
    """Whether nodes with these free CPUs have room for an actor of each pool, after the pools before it have taken all
    the room that they can use, and leave `spare` CPUs. Ray works with a part of a pool."""
    free = list(nodes)
    for number, cpus in pools:
        if cpus <= 0:
            continue
        missing = number
        for at, there in enumerate(free):
            some = min(missing, math.floor(there / cpus + 1e-6))
            missing, free[at] = missing - some, there - some * cpus
        if missing == number:
            return False
    return sum(free) >= spare - 1e-6


def pools_of(ds: Dataset) -> list[Pool]:
    """The pools of actors in a dataset's plan, in order, except those whose CPUs are determined only as they start. The
    plan is internal to Ray: if it is not as expected, the result is empty."""
    try:
        steps = {id(step): step for step in vars(ds)["_logical_plan"].dag.post_order_iter()}
        found = []
        for step in steps.values():
            compute = getattr(step, "compute", None)
            if isinstance(compute, ActorPoolStrategy) and step.ray_remote_args_fn is None:
                cpus = step.ray_remote_args.get("num_cpus", 1)
                found.append(Pool(int(compute.initial_size), 1.0 if cpus is None else float(cpus)))
        return found
    except Exception:
        return []


def _free() -> list[float]:
    """The free CPUs of each node; a single number if Ray does not give them for each node."""
    try:
        from ray._private.state import available_resources_per_node

        return [float(one.get("CPU", 0.0)) for one in available_resources_per_node().values()]
    except Exception:
        return [float(ray.available_resources().get("CPU", 0.0))]


def _grows(nodes: list[float]) -> bool:
    """Whether Ray may add nodes by itself, as far as it reports that."""
    try:
        from ray._private.state import state

        most = state.get_max_resources_from_cluster_config()
        return most is not None and bool(most.get("CPU", 0) > sum(nodes))
    except Exception:
        return False


def _elsewhere(ds: Dataset) -> bool:
    """Whether the actors may run in a placement group, whose CPUs count as held."""
    placed = getattr(ds.context, "scheduling_strategy", "SPREAD")
    return not isinstance(placed, str) or ray.util.get_current_placement_group() is not None


# ---- instruction sets ----------------------------------------------------------------------------------------------
def common_isa() -> str | None:
    """The best instruction set that all nodes have, if their best ones differ."""
    nodes = [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]
    if len(nodes) == 1:
        return None
    asking = ray.remote(num_cpus=0)(_tiers)
    on = [NodeAffinitySchedulingStrategy(node["NodeID"], soft=False) for node in nodes]
    return common(ray.get([asking.options(scheduling_strategy=one).remote() for one in on]))


def _tiers() -> list[str]:
    """Instruction sets that run here, the best one last."""
    from pellucid import _engine

    return [name for name, built, runs in _engine.isas() if built and runs]


def common(tiers: list[list[str]]) -> str | None:
    """The best of the tiers that all nodes have. tiers: those of each node, the best one last. A warning says what is
    used instead of better ones."""
    best = {one[-1] for one in tiers}
    if len(best) == 1:
        return None
    found = [name for name in tiers[0] if all(name in one for one in tiers)][-1]
    log.warn_once(
        "Ray: the nodes' best instruction sets differ (%s): all actors use %s, which all nodes have",
        ", ".join(sorted(best)),
        found,
    )
    return found
