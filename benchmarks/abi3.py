"""The cost of Python's stable interface: the modules are built with it, as in wheels, and for only this Python.

    python benchmarks/abi3.py [MODEL] [--repeat 9] [--folder FOLDER]

Needs a compiler. FOLDER keeps both builds. Each measurement is the median of many calls in a separate process; the
builds take turns, and the table has the medians over all processes, their ratio, and the smallest and largest ratio of
a turn. Two to four minutes with two cores, half of it for the two builds.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROGRAM = """
import json, statistics, sys, time
import numpy as np
from pellucid import Model, _engine, _parsers

def median(call, times, inner=1):
    found = []
    for _ in range(times):
        start = time.perf_counter()
        for _ in range(inner):
            call()
        found.append((time.perf_counter() - start) / inner)
    return statistics.median(found)

path, tiny, stable = sys.argv[1:]
assert _engine.__file__.endswith(".abi3.so") == (stable == "1"), _engine.__file__
with open(path, "rb") as file:
    data = file.read()
found = {"reading a header": median(lambda: _parsers.parse_gguf(data), 30)}
tokens = _parsers.parse_gguf(data).metadata["tokenizer.ggml.tokens"]
found["a vocabulary as texts"] = median(tokens.to_str_list, 30)
found["making a sampler"] = median(lambda: _engine.Sampler(temperature=0.8, top_k=40, seed=1), 200, 50)
for name, file, times in (("a pass of the smallest model", tiny, 20_000), ("a pass of the model", path, 100)):
    with Model.load(file, threads=1, context=256) as model:
        engine = model.core.open()
        sampler, sequence = _engine.Sampler(), _engine.Sequence(engine)
        ids = np.array([1], np.int32)

        def step():
            if sequence.length > 200:
                sequence.rewind(1)
            engine.forward([(sequence, ids, 0)], samplers=[sampler])

        step()
        found[name] = median(step, times)
print(json.dumps(found))
"""


def build(folder: Path, stable: bool) -> None:
    """A copy of the tree's sources with its own modules."""
    if not (folder / "src").is_dir():
        for part in ("csrc", "src"):
            shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
        for file in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
            shutil.copy(ROOT / file, folder)
    env = {**os.environ, "PELLUCID_ABI3": str(int(stable))}
    subprocess.run([sys.executable, "setup.py", "-q", "build_ext", "--inplace"], cwd=folder, env=env, check=True)


def main() -> None:
    sys.path.insert(0, str(ROOT))
    from benchmarks.arguments import count
    from pellucid.weights import catalog
    from tests.reference.tiny import TINY, write_gguf

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="smollm2-135m", help="a path or a catalogue name")
    parser.add_argument("--repeat", type=count, default=9, help="processes of each build")
    parser.add_argument("--folder", type=Path, help="where to build; kept")
    args = parser.parse_args()
    model = args.model if os.path.exists(args.model) else catalog.fetch(args.model)
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder or Path(temporary)
        tiny = write_gguf(TINY[0], Path(temporary) / "tiny.gguf")
        found: dict[bool, dict[str, list[float]]] = {True: {}, False: {}}
        for stable in found:
            build(folder / str(int(stable)), stable)
        for turn in range(args.repeat):
            for stable in (True, False) if turn % 2 else (False, True):
                env = {**os.environ, "PYTHONPATH": str(folder / str(int(stable)) / "src")}
                command = [sys.executable, "-c", PROGRAM, str(model), str(tiny), str(int(stable))]
                said = subprocess.run(command, env=env, check=True, capture_output=True, text=True).stdout
                for name, seconds in json.loads(said).items():
                    found[stable].setdefault(name, []).append(seconds)
    print("| us, median | stable interface | of this Python | ratio | of each turn |\n|---|---|---|---|---|")
    for name, ours in found[True].items():
        theirs = found[False][name]
        one, other = (statistics.median(seconds) * 1e6 for seconds in (ours, theirs))
        turns = sorted(a / b for a, b in zip(ours, theirs, strict=True))
        print(f"| {name} | {one:.1f} | {other:.1f} | {one / other:.3f} | {turns[0]:.3f} to {turns[-1]:.3f} |")


if __name__ == "__main__":
    main()
