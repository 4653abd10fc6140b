"""Names that programs import from llama-cpp-python, and read of its class."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pellucid.compat import llama_cpp
from pellucid.compat.llama_cpp import (
    LLAMA_DEFAULT_SEED,
    Llama,
    LlamaGrammar,
    LogitsProcessorList,
    MinTokensLogitsProcessor,
    StoppingCriteriaList,
    install,
    llama_chat_format,
    llama_grammar,
)
from pellucid.structure import Structure
from tests.structure.walks import grammars, takes

TEXT = "The capital of France is"


@pytest.fixture(scope="module")
def llama(smollm2: Path) -> Iterator[Llama]:
    made = Llama(str(smollm2), n_ctx=128, n_threads=1, last_n_tokens_size=32, verbose=False)
    yield made
    made.close()


def test_the_names_are_where_programs_look(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "llama_cpp"]:
        monkeypatch.delitem(sys.modules, name)
    install()
    names = [name for name in sys.modules if name.partition(".")[0] == "llama_cpp"]
    space: dict[str, Any] = {}
    try:
        exec(
            "from llama_cpp import Llama, LlamaGrammar, LogitsProcessor, LogitsProcessorList, StoppingCriteria\n"
            "from llama_cpp import GGML_TYPE_F16, GGML_TYPE_Q8_0, BaseLlamaCache, LlamaTokenizer, BaseLlamaTokenizer\n"
            "from llama_cpp.llama import LlamaGrammar, LogitsProcessorList, StoppingCriteriaList\n"
            "from llama_cpp.llama_cache import BaseLlamaCache\n"
            "from llama_cpp.llama_chat_format import Jinja2ChatFormatter\n"
            "from llama_cpp.llama_grammar import JSON_GBNF, json_schema_to_gbnf\n"
            "from llama_cpp.llama_tokenizer import BaseLlamaTokenizer, LlamaTokenizer\n",
            space,
        )
    finally:
        for name in names:
            sys.modules.pop(name, None)
    assert space["Llama"] is Llama and (space["GGML_TYPE_F16"], space["GGML_TYPE_Q8_0"]) == (1, 8)
    assert issubclass(llama_cpp.LlamaDiskCache, space["BaseLlamaCache"])
    assert issubclass(space["LlamaTokenizer"], space["BaseLlamaTokenizer"])


def test_what_cannot_be_made_says_so() -> None:
    with pytest.raises(NotImplementedError, match="Llama.template="):
        llama_chat_format.Jinja2ChatFormatter(template="", eos_token="", bos_token="")
    with pytest.raises(NotImplementedError, match="LlamaGrammar.from_json_schema"):
        llama_grammar.json_schema_to_gbnf("{}")


def test_processors(llama: Llama) -> None:
    """They work by themselves; a call takes none but an empty list."""
    scores = np.zeros(4, np.float32)
    longer = LogitsProcessorList([MinTokensLogitsProcessor(2, token_eos=3), lambda ids, scores: scores + 1])
    assert longer(np.array([7, 7], np.intc), scores.copy()).tolist() == [1, 1, 1, -np.inf]
    assert longer(np.array([7, 7, 7, 7], np.intc), scores.copy()).tolist() == [1, 1, 1, 1]
    ends = StoppingCriteriaList([lambda ids, logits: len(ids) > 2, lambda ids, logits: False])
    assert [ends(np.zeros(n, np.intc), scores) for n in (2, 3)] == [False, True]
    assert llama(TEXT, max_tokens=1, logits_processor=LogitsProcessorList(), stopping_criteria=StoppingCriteriaList())
    for name, value in (("logits_processor", longer), ("stopping_criteria", ends)):
        given: Any = {name: value}
        with pytest.raises(NotImplementedError, match=f"^{name} is not supported"):
            llama(TEXT, **given)


def test_the_grammar_of_json() -> None:
    grammar = grammars().compile(Structure("grammar", LlamaGrammar.from_string(llama_grammar.JSON_GBNF).text))
    for text in (
        "{}",
        '{"a": [1, -2.5e3, 0, "x\\n\\u00e9é", []], "b": {"c": null}, "d": true}',
        json.dumps({"a": [{"b": False}], "c": {}}, indent=2),
    ):
        assert takes(grammar, text) and isinstance(json.loads(text), dict)
    for text in ("[]", "1", '{"a"}', '{"a": 01}', '{"a": 1,}', '{"a": "\n"}', '{"a": "\\x"}', "{} {}"):
        assert not takes(grammar, text), text


def test_what_is_read_of_a_model(llama: Llama, smollm2: Path) -> None:
    assert (llama.n_batch, llama.n_threads, llama.last_n_tokens_size) == (128, 1, 32)
    assert llama.metadata["general.architecture"] == "llama" and llama.metadata["llama.block_count"] == "30"
    assert "im_start" in llama.metadata["tokenizer.chat_template"] and "tokenizer.ggml.tokens" not in llama.metadata
    assert all(isinstance(value, str) for value in llama.metadata.values())
    llama.set_seed(LLAMA_DEFAULT_SEED)
    assert llama.save_state().seed is None
    assert Llama.longest_token_prefix([1, 2, 3], [1, 2, 4, 5]) == 2 and Llama.longest_token_prefix([1], [1, 2]) == 1
    rows = np.array([[0.0, 1.0, -np.inf], [5.0, 5.0, 5.0]], np.float32)
    with np.errstate(divide="ignore"):
        expected = np.log(np.exp(rows) / np.exp(rows).sum(axis=-1, keepdims=True))
    np.testing.assert_allclose(Llama.logits_to_logprobs(rows), expected, rtol=1e-5)
    np.testing.assert_allclose(Llama.logits_to_logprobs(rows[1].tolist()), expected[1], rtol=1e-5)
