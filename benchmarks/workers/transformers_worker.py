"""transformers on PyTorch: dequantises the file and computes in bf16."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
import transformers
from protocol import Runtime, serve


class Transformers(Runtime):
    def load(self, path: str, threads: int, context: int) -> dict[str, Any]:
        torch.set_num_threads(threads)
        torch.set_grad_enabled(False)
        folder, name = str(Path(path).parent), Path(path).name
        self.model = transformers.AutoModelForCausalLM.from_pretrained(folder, gguf_file=name, dtype=torch.bfloat16)
        self.model.eval()
        return {"version": transformers.__version__, "vocab": self.model.config.get_text_config().vocab_size}

    def step(self, ids: Any, cache: Any = None) -> tuple[Any, Any]:
        out = self.model(ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
        return out.logits[:, -1].argmax(-1, keepdim=True), out.past_key_values

    def prefill(self, ids: list[int]) -> float:
        start = time.perf_counter()
        self.step(torch.tensor([ids]))
        return time.perf_counter() - start

    def decode(self, depth: int, ids: list[int], n: int) -> float:
        return self.together([ids], n)

    def together(self, prompts: list[list[int]], n: int) -> float:
        token, cache = self.step(torch.tensor(prompts))
        start = time.perf_counter()
        for _ in range(n):
            token, cache = self.step(token, cache)
        return time.perf_counter() - start

    def logits(self, ids: list[int]) -> Any:
        return self.model(torch.tensor([ids])).logits[0].float().numpy()


if __name__ == "__main__":
    serve(Transformers())
