"""lm-evaluation-harness, unmodified, over HTTP: the same numbers as in this process, to the last bit."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pellucid import Model
from tests.server.sockets import running

pytestmark = pytest.mark.live

LONG = "Once upon a time there was a river that ran through a forest. " * 20
PAIRS = [
    ("The capital of France is", " Paris"),
    ("The capital of France is", " a large city, and so is Rome"),
    ("The capital of France is ", "Paris"),
    ("Question: 2 + 2 =\nAnswer:", " 4"),
    ("Question: 2 + 2 =\nAnswer:", " 5"),
    ("", "An empty context"),
    (LONG, "It came to the sea."),
    ("Das Wörterbuch, 辞書", " 👋🏽 é\u0301"),
    ("def f(x):\n", "    return x + 1\n"),
]
TEXTS = ["The quick brown fox jumps over the lazy dog.", LONG, "é 辞書 👋🏽", "a"]
PROMPTS: list[tuple[str, dict[str, Any]]] = [
    ("The capital of France is", {"until": ["."], "max_gen_toks": 12}),
    ("The capital of Italy is", {"until": ["."], "max_gen_toks": 12}),
    (LONG, {"until": ["\n\n", " the"], "max_gen_toks": 20, "do_sample": False}),
    ("Q: Name a colour.\nA:", {"until": [], "max_gen_toks": 8, "temperature": 0.0}),
]


@pytest.fixture(scope="module")
def tokenizer(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder with the model's tokenizer, as the harness loads it."""
    import transformers

    folder = tmp_path_factory.mktemp("tokenizer")
    transformers.AutoTokenizer.from_pretrained(smollm2.parent, gguf_file=smollm2.name).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def url(model: Model) -> Iterator[str]:
    with running(model) as server:
        yield f"http://127.0.0.1:{server.port}/v1/completions"


def instances(kind: Any, arguments: list[Any]) -> list[Any]:
    from lm_eval.api.instance import Instance

    return [Instance(kind, {}, one, i) for i, one in enumerate(arguments)]


def api(url: str, tokenizer: str, **how: Any) -> Any:
    from lm_eval.models.openai_completions import LocalCompletionsAPI

    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    common = {"tokenizer_backend": "huggingface", "tokenizer": tokenizer, "max_length": 512, "max_retries": 1}
    return LocalCompletionsAPI(base_url=url, model="m", **common, **how)


@pytest.mark.parametrize("together", [1, 4])
@pytest.mark.parametrize("concurrent", [1, 8])
def test_the_same_numbers(together: int, concurrent: int, url: str, tokenizer: str, model: Model) -> None:
    from pellucid.look.harness import PellucidLM

    theirs, ours = api(url, tokenizer, batch_size=together, num_concurrent=concurrent), PellucidLM(model)
    pairs = instances("loglikelihood", PAIRS)
    expected = ours.loglikelihood(pairs)
    assert theirs.loglikelihood(pairs) == expected
    assert {greedy for _, greedy in expected} == {True, False}
    texts = instances("loglikelihood_rolling", [(text,) for text in TEXTS])
    assert theirs.loglikelihood_rolling(texts) == ours.loglikelihood_rolling(texts)
    prompts = instances("generate_until", PROMPTS)
    assert theirs.generate_until(prompts) == ours.generate_until(prompts)


def test_prompts_as_texts(url: str, tokenizer: str, model: Model) -> None:
    """The harness spells the token before an empty context as text, which is no control token in a prompt."""
    from pellucid.look.harness import PellucidLM

    theirs, ours = api(url, tokenizer, tokenized_requests=False), PellucidLM(model)
    pairs = instances("loglikelihood", [pair for pair in PAIRS if pair[0]])
    assert theirs.loglikelihood(pairs) == ours.loglikelihood(pairs)
    prompts = instances("generate_until", PROMPTS)
    assert theirs.generate_until(prompts) == ours.generate_until(prompts)


@pytest.mark.parametrize("concurrent", [1, 8])
def test_chats(concurrent: int, url: str, model: Model) -> None:
    """`local-chat-completions`, which only generates."""
    from lm_eval.models.openai_completions import LocalChatCompletion

    theirs = LocalChatCompletion(
        base_url=url.replace("/completions", "/chat/completions"), model="m", num_concurrent=concurrent, max_retries=1
    )
    system = {"role": "system", "content": "Be brief."}
    asked = [({"role": "user", "content": text}, options) for text, options in PROMPTS]
    chats: list[tuple[list[dict[str, str]], dict[str, Any]]] = [([one], options) for one, options in asked]
    chats += [([system, one], options) for one, options in asked]
    expected = [
        model.chat(
            messages, max_tokens=options["max_gen_toks"], temperature=0, stop=[t for t in options["until"] if t]
        ).text
        for messages, options in chats
    ]
    given = instances("generate_until", [(theirs.apply_chat_template(one), options) for one, options in chats])
    assert theirs.generate_until(given) == expected and any(expected)
