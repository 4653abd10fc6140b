"""Pellucid's models in lm-evaluation-harness (extra `eval`), registered as "pellucid" when this module is imported.

    python -m pellucid.look.harness --model pellucid --model_args pretrained=smollm2-135m --tasks lambada_openai

runs the harness's command line; in Python: `lm_eval.simple_evaluate(model=PellucidLM("smollm2-135m"), tasks=[...])`.
"""

from __future__ import annotations

from typing import Any

from lm_eval.api.model import LM
from lm_eval.api.registry import register_model

from pellucid.core import Core
from pellucid.look import evaluate
from pellucid.progress import reporting

__all__ = ["PellucidLM"]


class PellucidLM(LM):  # type: ignore[misc]  # Any if lm_eval is not installed
    """A model for the harness. pretrained: a Model, or a source for ``Model.load``; options: for ``Model.load``.
    batch_size: number of texts generated in the same passes ("auto": 8); it changes no result. device and
    max_batch_size are accepted and ignored."""

    def __init__(
        self,
        pretrained: Any,
        *,
        batch_size: int | str | None = None,
        max_gen_toks: int = evaluate.MAX_NEW,
        device: Any = None,
        max_batch_size: Any = None,
        **options: Any,
    ) -> None:
        super().__init__()
        self.core: Core
        if hasattr(pretrained, "core"):
            self.core = pretrained.core
        else:
            with reporting(options.pop("progress", None)) as report:
                self.core = Core.load(pretrained, progress=report, **options)
        self.together = int(batch_size or 8) if batch_size != "auto" else 8
        self.max_gen_toks = max_gen_toks

    def loglikelihood(self, requests: list[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """For each (context, continuation): (log probability, whether it is greedy)."""
        return evaluate.loglikelihood(self.core, [request.args for request in requests])

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:
        """For each (text,): its log probability."""
        return evaluate.rolling(self.core, [request.args[0] for request in requests])

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        """For each (context, options): the generated text."""
        pairs = [request.args for request in requests]
        return evaluate.generate_until(self.core, pairs, together=self.together, max_new=self.max_gen_toks)

    @property
    def tokenizer_name(self) -> str:
        """A name for the tokenizer, used by the harness's cache of requests."""
        return self.core.facts.path.replace("/", "__")


if __name__ != "__main__":
    register_model("pellucid")(PellucidLM)
else:
    from lm_eval.__main__ import cli_evaluate

    import pellucid.look.harness  # noqa: F401 - registered under the module's own name

    cli_evaluate()
