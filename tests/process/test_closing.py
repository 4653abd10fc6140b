"""What `close` and the end of `with` free."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
import time
import weakref
from pathlib import Path

import pytest

from pellucid import Model
from pellucid.errors import ClosedError
from tests.process.test_sharing import IDS, files, load, path, root

__all__ = ["path", "root"]  # fixtures


def test_close_frees_what_is_still_referred_to(path: Path, root: Path) -> None:
    """By its variable, a context, a stream, an edit; what a thread computes meanwhile ends first."""
    model = load(path)
    context, stream = model.context(), model.stream([1, 2, 3], max_tokens=1000, ignore_eos=True, on_full="stop")
    context.generate(IDS, max_tokens=2)
    edited = model.edit()
    edited.logits(IDS)
    next(stream)
    assert files(root)
    errors: list[BaseException] = []

    def computes() -> None:
        try:
            while True:
                model.logits(IDS * 20)
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=computes)
    thread.start()
    time.sleep(0.1)
    model.close()
    thread.join(60)
    assert [type(error) for error in errors] == [ClosedError]
    assert files(root) == []
    for use in (lambda: next(stream), lambda: context.generate(), lambda: edited.logits(IDS), lambda: model.info()):
        with pytest.raises(ClosedError):
            use()


@pytest.mark.parametrize("kind", ["logits", "generate", "submit", "context"])
def test_the_last_reference_frees_it(smollm2: Path, kind: str) -> None:
    """At once, without Python's search for cycles."""
    gc.collect()
    gc.disable()
    try:
        model = Model.load(smollm2, threads=1)
        core = weakref.ref(model.core)
        if kind == "logits":
            model.logits([1, 2])
        elif kind == "generate":
            model.generate("a", max_tokens=2)
        elif kind == "submit":
            model.submit("a", max_tokens=2).result()
        else:
            context = model.context()
            context.generate("a", max_tokens=2)
            del context
        del model
        assert core() is None
    finally:
        gc.enable()


def test_with_frees_its_memory(smollm2: Path) -> None:
    """Models that a list still holds."""
    code = (
        "from pathlib import Path\nfrom pellucid import Model\nkept, sizes = [], []\n"
        "for _ in range(4):\n"
        f"    with Model.load({str(smollm2)!r}, threads=1, context=64) as model:\n"
        "        kept.append(model)\n        model.tokenize('a')\n"
        "    sizes.append(int(Path('/proc/self/statm').read_text().split()[1]) * 4096)\n"
        "print(max(sizes) - sizes[0])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=True)
    assert int(done.stdout) < 150 << 20  # three more vocabularies; the weights of three would be 290 MB more
