"""Modules that are loaded when they are first used, perhaps by several threads at the same time."""

from __future__ import annotations

import pkgutil
import random
import subprocess
import sys

import pytest

import pellucid
from pellucid import look

CODE = """
import importlib, sys, threading
import pellucid.model  # as in every program

sys.setswitchinterval(1e-6)
names = sys.argv[1:]
wrong, begin = [], threading.Barrier(len(names))

def load(name):
    begin.wait()
    module, _, name = name.partition(":")
    try:
        module = importlib.import_module(module)
        if name:
            getattr(module, name)
    except BaseException as error:
        wrong.append(repr(error))

threads = [threading.Thread(target=load, args=(name,)) for name in names]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
if wrong:
    raise SystemExit("; ".join(wrong))
"""


@pytest.mark.parametrize("seed", range(4))
def test_threads_load_modules_at_the_same_time(seed: int) -> None:
    """The package of looking inside imported its modules: of threads that scored, traced and edited first, some failed
    with ImportError."""
    modules = [one.name for one in pkgutil.iter_modules(look.__path__, "pellucid.look.")]
    modules.remove("pellucid.look.harness")  # imports lm_eval, which is optional
    names = [f"pellucid:{name}" for name in pellucid.__all__] + [f"pellucid.look:{name}" for name in look.__all__]
    chosen = random.Random(seed).sample(modules, 8) + random.Random(seed).sample(names, 4)
    done = subprocess.run([sys.executable, "-c", CODE, *chosen], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_packages_that_are_loaded_late_import_none_of_their_modules() -> None:
    """A thread that imports such a module waits for its package, which would wait for it."""
    code = """if True:
        import sys, pkgutil, pellucid, pellucid.model
        for one in pkgutil.iter_modules(pellucid.__path__, "pellucid."):
            if one.ispkg and one.name not in sys.modules:
                __import__(one.name)
                print(*(name for name in sys.modules if name.startswith(f"{one.name}.")), end="")
        """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, ""), done.stderr


@pytest.mark.parametrize("package", [pellucid, look])
def test_all_public_names_are_there(package: object) -> None:
    for name in package.__all__:  # type: ignore[attr-defined]
        assert getattr(package, name) is not None and name in dir(package)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        package.nothing  # type: ignore[attr-defined]  # noqa: B018
