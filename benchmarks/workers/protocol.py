"""A worker: JSON lines in, JSON lines out, so that runtimes share no thread and may live in different environments.

Each request is an object with "do", the name of a method of the runtime, and its arguments; each answer is {"result":
...} or {"error": ...}. Needs nothing but Python (and numpy, for `kl`).
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent


class Runtime:
    """What a worker can do. All times are seconds; ids are token ids, greedy decoding throughout."""

    def load(self, path: str, threads: int, context: int) -> dict[str, Any]:
        """Loads a GGUF file -> {"version": ..., "vocab": tokens of the vocabulary}."""
        raise NotImplementedError

    def prefill(self, ids: list[int]) -> float:
        """From a prompt to its first new token."""
        raise NotImplementedError

    def decode(self, depth: int, ids: list[int], n: int) -> float:
        """n tokens one at a time after `depth` + 1 others. ids: the others, the same ones at every call for a depth."""
        raise NotImplementedError

    def together(self, prompts: list[list[int]], n: int) -> float:
        """n tokens of each of several sequences, side by side, after their prompts and a first token each."""
        raise NotImplementedError

    def logits(self, ids: list[int]) -> Any:
        """float32 (len(ids), vocab)."""
        raise NotImplementedError

    def kl(self, golden: str) -> dict[str, float]:
        """Divergence from the stored reference (tests/reference), over its first window."""
        sys.path.insert(0, str(ROOT))
        from tests.reference import golden as stored
        from tests.reference import kl

        g = stored.load(Path(golden))
        found = kl.top_divergence(g.ids[0], g.log_p[0], g.rest[0], self.logits(g.windows[0].tolist()))
        return {"mean": found.mean, "agreement": found.agreement, "positions": len(found.kl)}

    def memory(self) -> float:
        """The process's peak of resident memory, in MB (1e6 bytes). Not ru_maxrss, which begins with the peak of the
        process that started this one."""
        status = Path("/proc/self/status").read_text().splitlines()
        peak = next(line for line in status if line.startswith("VmHWM:"))
        return int(peak.split()[1]) * 1024 / 1e6


def serve(runtime: Runtime) -> None:
    """Answers requests until standard input ends. What a runtime prints goes to stderr, not among the answers."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = {"result": getattr(runtime, request.pop("do"))(**request)}
        except NotImplementedError:
            answer = {"error": "not offered"}
        except Exception as error:  # whatever a runtime raises is its answer
            answer = {"error": " ".join(f"{type(error).__name__}: {error}".split())}
        out.write(json.dumps(answer) + "\n")
        out.flush()
