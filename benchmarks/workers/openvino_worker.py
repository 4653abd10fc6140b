"""OpenVINO GenAI: its pipeline reads some GGUF files, converting them while it loads. It hands out no logits."""

from __future__ import annotations

from typing import Any

import numpy as np
import openvino
import openvino_genai as genai
from protocol import Runtime, serve


class OpenVino(Runtime):
    def load(self, path: str, threads: int, context: int) -> dict[str, Any]:
        self.pipe = genai.LLMPipeline(path, "CPU", INFERENCE_NUM_THREADS=threads)
        return {"version": genai.__version__, "vocab": 0}

    def generate(self, prompts: list[list[int]], n: int) -> tuple[float, float]:
        """-> seconds to the first token of all, and from there to the last."""
        config = genai.GenerationConfig()
        config.max_new_tokens, config.ignore_eos, config.do_sample = n, True, False
        ids = np.array(prompts, np.int64)
        inputs = genai.TokenizedInputs(openvino.Tensor(ids), openvino.Tensor(np.ones_like(ids)))
        metrics = self.pipe.generate(inputs, config).perf_metrics
        first = metrics.get_ttft().mean / 1e3
        return first, metrics.get_generate_duration().mean / 1e3 - first

    def prefill(self, ids: list[int]) -> float:
        return self.generate([ids], 1)[0]

    def decode(self, depth: int, ids: list[int], n: int) -> float:
        return self.generate([ids], n + 1)[1]

    def together(self, prompts: list[list[int]], n: int) -> float:
        return self.generate(prompts, n + 1)[1]


if __name__ == "__main__":
    serve(OpenVino())
