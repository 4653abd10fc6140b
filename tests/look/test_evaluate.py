"""The requests of lm-evaluation-harness, compared with the model's logits; with `--live`, the harness runs a task."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pellucid import Model
from pellucid.errors import ContextFullError
from pellucid.look import evaluate
from tests.adapters.conftest import readme
from tests.weights import hostile


def log_p(model: Model, ids: list[int], first: int) -> tuple[float, bool]:
    x = model.logits(ids).astype(np.float64)
    x -= np.log(np.exp(x - x.max(-1, keepdims=True)).sum(-1, keepdims=True)) + x.max(-1, keepdims=True)
    rows = np.arange(first - 1, len(ids) - 1)
    return float(x[rows, ids[first:]].sum()), bool((x[rows].argmax(-1) == ids[first:]).all())


PAIRS = [
    ("The capital of France is", " Paris"),
    ("The capital of France is", " Rome, of course"),
    ("The capital of France is ", "Paris"),  # the space goes with the continuation
    ("", "Hello world"),
    ("\n ", "Hello"),
    ("Water freezes at 0 degrees", " Celsius. It boils at 100"),
]


def test_loglikelihood(smollm: Model) -> None:
    found = evaluate.loglikelihood(smollm.core, PAIRS)
    end = evaluate._prefix(smollm.core)
    assert smollm.tokenizer is not None and end in (smollm.tokenizer.bos, smollm.tokenizer.eos)
    for (context, continuation), (value, greedy) in zip(PAIRS, found, strict=True):
        stem = context.rstrip()
        if stem:
            ids, first = smollm.tokenize(context + continuation), len(smollm.tokenize(stem))
        else:
            ids, first = [end, *smollm.tokenize(context + continuation, add_special=False)], 1
        expected, is_greedy = log_p(smollm, ids, first)
        assert value == pytest.approx(expected, abs=1e-3) and greedy == is_greedy
    assert [greedy for _, greedy in found[:3]] == [True, False, True]
    assert found[0] == found[2]
    # The choices of a question share its context's keys and values; each is as it is alone.
    assert found == [evaluate.loglikelihood(smollm.core, [pair])[0] for pair in PAIRS]
    assert evaluate.loglikelihood(smollm.core, []) == []


def test_a_continuation_that_a_token_of_the_context_would_swallow(tmp_path: Path) -> None:
    """Context and continuation together are one token; the continuation must not get probability 1."""
    path = tmp_path / "small.gguf"
    path.write_bytes(hostile.model().bytes())
    with Model.load(path, threads=1) as model:
        (he,), llo = model.tokenize("he", add_special=False), model.tokenize("llo", add_special=False)
        assert len(model.tokenize("hello", add_special=False)) == 1
        context = model.tokenize("he")
        ((value, greedy),) = evaluate.loglikelihood(model.core, [("he", "llo")])
        expected, is_greedy = log_p(model, context + llo, len(context))
        assert context[-1] == he and value == pytest.approx(expected, abs=1e-3) and greedy == is_greedy


def test_rolling_and_truncation(smollm2: Path) -> None:
    text = " ".join(str(i) for i in range(60))
    with Model.load(smollm2, context=40, threads=2) as small, Model.load(smollm2, threads=2) as whole:
        ids = [evaluate._prefix(whole.core), *whole.tokenize(text, add_special=False)]
        assert 120 < len(ids) < 200
        expected, covered = 0.0, list[int]()
        for start in range(1, len(ids), 40):
            end = min(start + 40, len(ids))
            low = max(0, end - 41)
            expected += log_p(whole, ids[low:end], start - low)[0]
            covered += range(start, end)
        assert covered == list(range(1, len(ids)))
        long, short = evaluate.rolling(small.core, [text, "1 2 3"])
        assert long == pytest.approx(expected, abs=5e-3)
        assert short == pytest.approx(evaluate.rolling(whole.core, ["1 2 3"])[0])
        with pytest.warns(UserWarning, match="its first .* tokens are left out"):
            ((value, _),) = evaluate.loglikelihood(small.core, [(text, " 60 61")])
        tail = whole.tokenize(text + " 60 61")
        n = len(tail) - len(whole.tokenize(text))
        assert value == pytest.approx(log_p(whole, tail[-41:], 41 - n)[0], abs=1e-3)
        with pytest.raises(ContextFullError, match="continuation is too long"):
            evaluate.loglikelihood(small.core, [("1", text)])
        with pytest.warns(UserWarning, match="left out"):
            (made,) = evaluate.generate_until(small.core, [(text, {"max_gen_toks": 5})])
        assert made == whole.generate(whole.tokenize(text)[-35:], temperature=0, max_tokens=5).text
        with pytest.raises(ContextFullError, match="leaves no room"):
            evaluate.generate_until(small.core, [("a", {"max_gen_toks": 40})])


def test_generate_until(smollm: Model) -> None:
    greedy: dict[str, Any] = {"until": ["\n", "."], "max_gen_toks": 12, "do_sample": False, "temperature": 0.0}
    contexts = ["The capital of France is", "Once upon a time", "2 + 2 =", ""]
    requests = [*((c, greedy) for c in contexts), (contexts[1], {**greedy, "until": " time"}), (contexts[0], greedy)]
    found = evaluate.generate_until(smollm.core, requests, together=3)
    for text, (context, options) in zip(found, requests, strict=True):
        stop = options["until"]
        prompt: Any = smollm.tokenize(context) or [evaluate._prefix(smollm.core)]
        assert text == smollm.generate(prompt, temperature=0, max_tokens=12, stop=stop).text
    assert found[0] == found[-1] and found[0].startswith(" Paris")
    seeded = {"do_sample": True, "temperature": 0.7, "top_p": 0.9, "seed": 4, "max_gen_toks": 6, "until": None}
    assert evaluate.generate_until(smollm.core, [(contexts[1], seeded)]) == [
        smollm.generate(contexts[1], temperature=0.7, top_p=0.9, top_k=0, min_p=0, seed=4, max_tokens=6).text
    ]
    with pytest.raises(ValueError, match="'num_beams' is not supported"):
        evaluate.generate_until(smollm.core, [("a", {"num_beams": 4})])


@pytest.mark.live
def test_the_harness_runs_a_task(smollm: Model, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Unmodified lm-evaluation-harness, on a task of local data: multiple choice, generation and perplexity; and the
    README's lines."""
    import lm_eval
    from lm_eval.tasks import TaskManager

    from pellucid.look.harness import PellucidLM

    facts = [("France", "Paris", "Rome"), ("Italy", "Rome", "Madrid"), ("Japan", "Tokyo", "Beijing")]
    docs: list[dict[str, Any]] = [
        {"q": f"The capital of {c} is", "choices": [f" {a}", f" {b}"], "gold": 0} for c, a, b in facts
    ]
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(doc) + "\n" for doc in docs))
    common: dict[str, Any] = {
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(tmp_path / "data.jsonl")}},
        "test_split": "test",
        "doc_to_text": "{{q}}",
    }
    choice = {**common, "task": "capitals", "output_type": "multiple_choice", "doc_to_choice": "{{choices}}"}
    choice |= {"doc_to_target": "gold", "metric_list": [{"metric": "acc"}]}
    generate = {**common, "task": "capitals_until", "output_type": "generate_until", "doc_to_target": "{{choices[0]}}"}
    generate |= {
        "generation_kwargs": {"until": [".", ","], "max_gen_toks": 4},
        "metric_list": [{"metric": "exact_match"}],
    }
    perplexity = {**common, "task": "capitals_ppl", "output_type": "loglikelihood_rolling", "doc_to_text": ""}
    perplexity |= {"doc_to_target": "{{q}}", "metric_list": [{"metric": "word_perplexity"}]}
    tasks = [choice, generate, perplexity]
    results = lm_eval.simple_evaluate(
        model=PellucidLM(smollm), tasks=tasks, task_manager=TaskManager(include_defaults=False), bootstrap_iters=0
    )["results"]
    assert results["capitals"]["acc,none"] == 1.0
    assert results["capitals_until"]["exact_match,none"] >= 1 / 3
    n_words = sum(len(doc["q"].split()) for doc in docs)
    total = sum(evaluate.rolling(smollm.core, [doc["q"] for doc in docs]))
    assert results["capitals_ppl"]["word_perplexity,none"] == pytest.approx(np.exp(-total / n_words), rel=1e-4)
    code = readme("pellucid.look.harness")
    assert 'tasks=["arc_easy"]' in code  # whose data a hub has
    exec(code.replace('["arc_easy"]', "tasks"), {"tasks": [choice]})
    assert "'acc,none': 1.0" in capsys.readouterr().out
