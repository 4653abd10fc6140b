"""llama-cpp-python's interface: its dicts, its arguments, and packages that are built on it, unchanged."""

from __future__ import annotations

import pickle
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pellucid import Model, arch, pickled
from pellucid.compat.llama_cpp import Llama, LlamaGrammar
from pellucid.errors import ChatTemplateError, ModelFileError
from tests.adapters.conftest import EXAMPLES, HERE, Run, readme
from tests.adapters.llama_dicts import answers, keys
from tests.embedding.cases import BY_NAME
from tests.embedding.files import load_golden, write_folder

PACKAGES = ["langchain-community==0.4.2", "llama-index-core==0.14.25", "haystack-ai==3.4.1"]
ALONE = ["llama-index-llms-llama-cpp==0.7.0", "llama-cpp-haystack==3.0.2"]  # they would compile llama-cpp-python
ASK: list[Any] = [{"role": "user", "content": "Name a colour."}]
TEXT = "The capital of France is"


@pytest.fixture(scope="module")
def llama(smollm2: Path) -> Iterator[Llama]:
    made = Llama(str(smollm2), n_ctx=512, verbose=False, logits_all=True, embedding=True, pooling_type=1)
    yield made
    made.close()


@pytest.fixture(scope="module")
def model(smollm2: Path) -> Iterator[Model]:
    with Model.load(smollm2, context=512) as model:
        yield model


@pytest.mark.clients
def test_packages_run_unchanged(environment: Callable[..., Run], smollm2: Path, model: Model) -> None:
    short: Any = {"temperature": 0, "max_tokens": 8}
    chat, text = (model.chat(ASK, **short).text, model.generate(TEXT, temperature=0, max_tokens=4).text)
    short["repeat_penalty"] = 1.1  # LangChain's own default
    of_langchain = [model.chat(ASK, **short).text, model.generate(TEXT, **{**short, "max_tokens": 4}).text]
    run = environment(PACKAGES, ALONE)
    printed = run(HERE / "programs" / "llama_cpp_program.py", smollm2).split("\n--\n")
    assert [part.strip() for part in printed] == [part.strip() for part in (*of_langchain, text, chat, "fine")]


def test_readme_and_example(smollm2: Path) -> None:
    for code in (readme("pellucid.compat.llama_cpp"), (EXAMPLES / "llama_cpp_chat.py").read_text()):
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
        assert (done.returncode, done.stderr) == (0, "") and done.stdout.strip()


# ---- answers --------------------------------------------------------------------------------------------------------

# Of llama-cpp-python 0.3.36; tests/adapters/test_llama_cpp_live.py compares with the package itself.
USAGE = {"prompt_tokens", "completion_tokens", "total_tokens"}
COMMON = {"id", "object", "created", "model", "choices"}
CHOICE, LOGPROBS = (
    {"text", "index", "logprobs", "finish_reason"},
    {"text_offset", "token_logprobs", "tokens", "top_logprobs"},
)
CALL = {"role", "content", "function_call", "tool_calls"}


def test_keys_are_those_of_llama_cpp_python(llama: Llama) -> None:
    found = {name: keys(value) for name, value in answers(llama, llama).items()}
    assert found["completion"] == {"": COMMON | {"usage"}, "choices": CHOICE, "usage": USAGE}
    assert found["logprobs"]["choices.logprobs"] == LOGPROBS
    assert found["pieces"] == {"": COMMON, "choices": CHOICE}
    message = {"index", "message", "logprobs", "finish_reason"}
    assert found["chat"] == {
        "": COMMON | {"usage"},
        "choices": message,
        "choices.message": {"role", "content"},
        "choices.logprobs": {"content", "refusal"},
        "choices.logprobs.content": {"token", "logprob", "bytes", "top_logprobs"},
        "choices.logprobs.content.top_logprobs": {"token", "logprob", "bytes"},
        "usage": USAGE,
    }
    assert found["chat pieces"][""] == COMMON
    assert found["chat pieces"]["choices.delta"] == {"role", "content"}
    assert found["call"]["choices.message"] == CALL
    assert found["call"]["choices.message.tool_calls"] == {"id", "type", "function"}
    assert found["call pieces"]["choices.delta"] == CALL
    assert found["call pieces"]["choices.delta.tool_calls"] == {"index", "id", "type", "function"}
    assert found["embedding"] == {
        "": {"object", "data", "model", "usage"},
        "data": {"object", "embedding", "index"},
        "usage": {"prompt_tokens", "total_tokens"},
    }


def test_answers_are_those_of_the_library(llama: Llama, model: Model) -> None:
    drawn: Any = {"seed": 5, "top_k": 7, "top_p": 0.8, "min_p": 0.01, "repeat_penalty": 1.2, "temperature": 0.9}
    whole = llama(TEXT, max_tokens=8, **drawn)["choices"][0]["text"]
    assert whole == model.generate(TEXT, max_tokens=8, repeat_last=64, **drawn).text
    assert whole == "".join(one["choices"][0]["text"] for one in llama(TEXT, max_tokens=8, stream=True, **drawn))
    assert llama(model.tokenize(TEXT), max_tokens=8, **drawn)["choices"][0]["text"] == whole
    assert llama(TEXT, max_tokens=8, echo=True, **drawn)["choices"][0]["text"] == TEXT + whole
    chat = llama.create_chat_completion(ASK, max_tokens=8, **drawn)["choices"][0]
    assert chat["message"]["content"] == model.chat(ASK, max_tokens=8, repeat_last=64, **drawn).text
    assert chat["finish_reason"] == "length"
    pieces = list(llama(TEXT, max_tokens=20, temperature=0, stop=["."], stream=True))
    assert [one["choices"][0]["finish_reason"] for one in pieces][-2:] == [None, "stop"]
    assert "".join(one["choices"][0]["text"] for one in pieces) == " Paris" and pieces[-1]["choices"][0]["text"] == ""


def test_a_prompt_has_special_tokens(llama: Llama, model: Model) -> None:
    """Chats that programs write out themselves."""
    text, short = "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n", {"max_tokens": 4, "temperature": 0}
    ids = model.tokenize(text, parse_special=True)
    expected = model.generate(ids, max_tokens=4, temperature=0).text
    answer = llama(text, **short)  # type: ignore[arg-type]
    assert answer["usage"]["prompt_tokens"] == len(ids) < len(model.tokenize(text))
    assert answer["choices"][0]["text"] == expected
    assert llama(text, echo=True, **short)["choices"][0]["text"] == text + expected  # type: ignore[arg-type]
    some: Any = ["a", "b"]
    with pytest.raises(TypeError, match="prompt"):
        llama(some)


def test_max_tokens_of_none_or_0_is_the_rest_of_the_context(smollm2: Path) -> None:
    small = Llama(str(smollm2), n_ctx=24, verbose=False)
    for most in (None, 0, -1):
        answer = small(TEXT, max_tokens=most, temperature=0, logit_bias={2: -100.0, 0: -100.0})
        assert answer["usage"]["total_tokens"] == 25  # the last one needs no room
        assert answer["choices"][0]["finish_reason"] == "length"
    with pytest.raises(ValueError, match=r"Requested tokens \(\d+\) exceed context window of 24"):
        small("word " * 40)
    with pytest.raises(ValueError, match="exceed context window of 24"):
        list(small("word " * 40, stream=True))


def test_logprobs(llama: Llama, model: Model) -> None:
    found = llama(TEXT, max_tokens=3, temperature=0, logprobs=2)["choices"][0]["logprobs"]
    done = model.generate(TEXT, max_tokens=3, temperature=0, logprobs=2)
    assert found["tokens"] == [one.piece for one in done.logprobs]
    assert found["token_logprobs"] == [one.logprob for one in done.logprobs]
    assert found["text_offset"][0] == len(TEXT) and [len(top) for top in found["top_logprobs"]] == [2, 2, 2]


def test_the_drawn_token_is_among_the_likeliest(llama: Llama) -> None:
    rare: Any = {"temperature": 2.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "seed": 3, "max_tokens": 6}
    for n in (0, 1):
        found = llama(TEXT, logprobs=n, **rare)["choices"][0]["logprobs"]
        drawn = zip(found["tokens"], found["token_logprobs"], found["top_logprobs"], strict=True)
        assert all(top[token] == logprob and len(top) <= n + 1 for token, logprob, top in drawn)
        assert any(len(top) == n + 1 for top in found["top_logprobs"])
        chat = llama.create_chat_completion(ASK, logprobs=True, top_logprobs=n, **rare)["choices"][0]["logprobs"]
        for one in chat["content"]:
            alike = [other for other in one["top_logprobs"] if other["bytes"] == one["bytes"]]
            assert alike == [{name: one[name] for name in ("token", "logprob", "bytes")}]


def test_logprobs_of_a_stream_end_with_its_text(llama: Llama) -> None:
    """Also where the last piece has text that was withheld, as it could have been the beginning of a stop string."""
    for seed in range(60):
        given: Any = {"seed": seed, "temperature": 1.0, "logit_bias": {2: 8.0}, "max_tokens": 8, "logprobs": 1}
        text = llama(TEXT, **given)["choices"][0]["text"]
        given["stop"] = [text[-1:] + "QQQ"]
        whole = llama(TEXT, **given)["choices"][0]
        if whole["finish_reason"] == "stop" and text:
            break
    assert whole["finish_reason"] == "stop" and whole["text"] == text != ""
    events = [one["choices"][0] for one in llama(TEXT, **given, stream=True)]
    lists = [one["logprobs"] for one in events if one["logprobs"] is not None]
    for name, values in whole["logprobs"].items():
        assert [value for one in lists for value in one[name]] == values
    assert "".join(one["text"] for one in events) == whole["text"]


def test_grammars_and_schemas(llama: Llama) -> None:
    grammar = LlamaGrammar.from_string('root ::= " London" | " Rome"')
    assert llama(TEXT, grammar=grammar, temperature=0)["choices"][0]["text"] in (" London", " Rome")
    schema = LlamaGrammar.from_json_schema('{"type": "boolean"}')
    assert llama(TEXT, grammar=schema, temperature=0)["choices"][0]["text"] in ("true", "false")
    form = {"type": "json_object", "schema": {"type": "boolean"}}
    for beside in (None, grammar):  # the form wins, as in llama-cpp-python
        answer = llama.create_chat_completion(ASK, response_format=form, grammar=beside, max_tokens=9)
        assert answer["choices"][0]["message"]["content"] in ("true", "false")
    cities = llama.create_chat_completion(ASK, response_format={"type": "text"}, grammar=grammar, max_tokens=9)
    assert cities["choices"][0]["message"]["content"] in (" London", " Rome")


def test_older_functions(llama: Llama) -> None:
    parameters = {"type": "object", "properties": {}, "additionalProperties": False}
    functions = [{"name": "now", "parameters": parameters}]
    answer = llama.create_chat_completion(
        ASK, functions=functions, function_call={"name": "now"}, temperature=0, max_tokens=40
    )
    assert answer["choices"][0]["message"]["function_call"] == {"name": "now", "arguments": "{}"}
    assert answer["choices"][0]["finish_reason"] == "tool_calls"


def test_tokens(llama: Llama, model: Model) -> None:
    ids = llama.tokenize("Grüße <|im_end|>".encode())
    assert ids == model.tokenize("Grüße <|im_end|>") and llama.detokenize(ids) == "Grüße <|im_end|>".encode()
    assert llama.tokenize(b"<|im_end|>", special=True) == [2] and llama.detokenize([2], special=True) == b"<|im_end|>"
    assert llama.tokenizer().decode(llama.tokenizer().encode("a b")) == "a b"
    assert (llama.n_ctx(), llama.n_vocab(), llama.n_embd()) == (512, 49152, 576)
    assert (llama.token_bos(), llama.token_eos()) == (model.tokenizer.bos, model.tokenizer.eos)  # type: ignore[union-attr]


def test_embeddings(llama: Llama, model: Model, smollm2: Path, tmp_path: Path) -> None:
    texts = ["Owls hunt.", "Swallows fly south."]
    rows = model.embed(texts, pooling="mean", normalize=False).tolist()
    assert llama.embed(texts) == rows and llama.embed(texts[0]) == rows[0]
    assert [one["embedding"] for one in llama.create_embedding(texts)["data"]] == rows
    assert llama.create_embedding(texts)["usage"]["total_tokens"] == sum(len(model.tokenize(text)) for text in texts)
    of_tokens = Llama(str(smollm2), embedding=True, verbose=False).embed(texts[0])
    assert of_tokens == model.trace(texts[0], ["final"]).final.tolist()
    lengths = np.linalg.norm(Llama(str(smollm2), embedding=True, verbose=False).embed(texts[0], normalize=True), axis=1)
    np.testing.assert_allclose(lengths, np.ones(len(of_tokens)), rtol=1e-6)
    folder = write_folder(BY_NAME["bert"], load_golden(BY_NAME["bert"]), tmp_path / "embedder")
    embedder = Llama(str(folder), embedding=True, n_ctx=0, verbose=False)
    with Model.load(folder) as own:
        assert embedder.embed(texts, normalize=True) == own.embed(texts, normalize=True).tolist()
    embedder.reset()
    embedder.load_state(embedder.save_state())
    with pytest.raises(RuntimeError, match="embedding=True"):
        Llama(str(folder), verbose=False, n_ctx=0).embed("a")


def test_sizes_of_contexts(smollm2: Path) -> None:
    assert Llama(str(smollm2), n_ctx=0, verbose=False).n_ctx() == Model.load(smollm2).info().context_trained
    with pytest.warns(UserWarning, match="n_ctx=1000000: more tokens"):
        assert Llama(str(smollm2), n_ctx=1_000_000, verbose=False).n_ctx() == 8192


@pytest.mark.filterwarnings("ignore:n_ctx")
@pytest.mark.parametrize("n_ctx", [0, 1_000_000])
def test_models_for_long_texts_load_once(n_ctx: int, smollm2: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that have more than the default: in memory, two copies of the weights may be more than there is."""
    loads: list[Any] = []
    monkeypatch.setattr(arch, "DEFAULT_CONTEXT", 2048)
    monkeypatch.setattr(pickled, "remember", lambda *of: loads.append(of))
    assert Llama(str(smollm2), n_ctx=n_ctx, verbose=False).n_ctx() == 8192
    assert len(loads) == 1


# ---- arguments ------------------------------------------------------------------------------------------------------


def test_arguments_without_effect_are_told_of_once(smollm2: Path) -> None:
    with pytest.warns(UserWarning, match="^without effect: brand_new, n_gpu_layers$") as told:
        Llama(str(smollm2), n_gpu_layers=-1, brand_new=1, use_mmap=True, n_parts=-1, verbose=False).close()
    assert len(told) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Llama(str(smollm2), n_gpu_layers=0, n_batch=512, type_k=8, type_v=8, verbose=False).close()


@pytest.mark.parametrize(
    "wrong",
    [
        {"lora_path": "a"},
        {"draft_model": object()},
        {"chat_handler": object()},
        {"tokenizer": object()},
        {"vocab_only": True},
        {"rope_freq_base": 1e6},
        {"type_k": 2},
        {"type_v": 8},  # keys are f16 then
        {"chat_format": "llama-2"},
        {"pooling_type": 4},
    ],
    ids=lambda wrong: next(iter(wrong)),
)
def test_refused_of_models(wrong: dict[str, Any], smollm2: Path) -> None:
    with pytest.raises(NotImplementedError, match=next(iter(wrong))):
        Llama(str(smollm2), verbose=False, **wrong)


@pytest.mark.parametrize("wrong", ["logits_processor", "stopping_criteria", "suffix", "tfs_z"])
def test_refused_of_calls(wrong: str, llama: Llama) -> None:
    with pytest.raises(NotImplementedError, match=f"^{wrong} is not supported"):
        given: Any = {wrong: "x" if wrong == "suffix" else [len]}
        llama(TEXT, **given)


def test_mirostat_of_the_first_kind_is_refused(llama: Llama) -> None:
    for call in (llama, llama.create_chat_completion, llama.generate):
        given: Any = ASK if call == llama.create_chat_completion else [1] if call == llama.generate else TEXT
        with pytest.raises(NotImplementedError, match="^mirostat_mode=1 is not supported"):
            call(given, mirostat_mode=1)


def test_a_negative_temperature_draws_from_all_tokens(llama: Llama, model: Model) -> None:
    """As they are: the other options of drawing have no effect."""
    given: Any = {"max_tokens": 8, "seed": 5}
    raw: Any = {"temperature": 1, "top_k": 0, "top_p": 1, "min_p": 0}
    found = llama(TEXT, temperature=-1.0, top_k=1, mirostat_mode=2, **given)["choices"][0]["text"]
    assert found == model.generate(TEXT, **raw, **given).text


def test_one_type_alone_is_that_of_keys_and_values(smollm2: Path) -> None:
    with Model.load(smollm2, kv="f16") as f16:
        for made in (Llama(str(smollm2), type_k=1, verbose=False), Llama(str(smollm2), type_v=1, verbose=False)):
            assert made._model.info().kv == f16.info().kv
            made.close()


def test_a_file_that_cannot_be_read_is_a_value_error(tmp_path: Path) -> None:
    """As well as Pellucid's own error."""
    (tmp_path / "damaged.gguf").write_bytes(b"GGUF" + bytes(20))
    for name in ("none.gguf", "damaged.gguf"):
        with pytest.raises(ValueError, match=name) as wrong:
            Llama(str(tmp_path / name))
        assert isinstance(wrong.value, ModelFileError) and wrong.value.file == str(tmp_path / name)
        assert str(pickle.loads(pickle.dumps(wrong.value))) == str(wrong.value)


def test_errors_name_its_own_arguments(llama: Llama, smollm2: Path) -> None:
    for wrong in ({"n_ctx": -1}, {"n_ctx": "x"}, {"n_threads": -1}, {"n_batch": "x"}):
        with pytest.raises((ValueError, TypeError), match=f"^{next(iter(wrong))}="):
            Llama(str(smollm2), verbose=False, **wrong)
    text: Any = "a"
    for name, call in (
        ("text", lambda: llama.tokenize(text)),
        ("state", lambda: llama.load_state(text)),
        ("grammar", lambda: llama(text, grammar=text)),
    ):
        with pytest.raises(TypeError, match=f"^{name}: expected .*, not str$"):
            call()


def test_no_threads_are_the_default(smollm2: Path) -> None:
    """As in llama-cpp-python."""
    assert Llama(str(smollm2), n_threads=0, verbose=False)("a", max_tokens=2, temperature=0)["choices"]


def test_bytes_that_are_no_text_are_not_left_out(llama: Llama) -> None:
    assert llama.tokenize(b"a\xffb") == llama.tokenize("a\ufffdb".encode())


def test_what_is_absent(llama: Llama) -> None:
    assert not hasattr(llama, "nothing")
    with pytest.raises(ImportError, match="llama_backend_init"):
        from pellucid.compat.llama_cpp import llama_backend_init  # noqa: F401


@pytest.mark.gemma
def test_a_model_without_a_template(gemma3: Path) -> None:
    plain = Llama(str(gemma3), n_ctx=0, verbose=False)
    with pytest.raises(ChatTemplateError, match=r"with Llama\(template=\.\.\.\)$"):
        plain.create_chat_completion(ASK)
    plain(TEXT, max_tokens=1)
    formed = Llama(str(gemma3), n_ctx=0, verbose=False, chat_format="chatml")
    assert formed.create_chat_completion(ASK, max_tokens=1)["choices"][0]["message"]["role"] == "assistant"


def test_seeds(llama: Llama, smollm2: Path) -> None:
    hot: Any = {"temperature": 1.5, "max_tokens": 12}
    seeded = Llama(str(smollm2), seed=3, verbose=False)
    first = seeded(TEXT, **hot)["choices"][0]["text"]
    assert first == seeded(TEXT, **hot)["choices"][0]["text"] == llama(TEXT, seed=3, **hot)["choices"][0]["text"]
    state = seeded.save_state()
    seeded.set_seed(4)
    assert seeded(TEXT, **hot)["choices"][0]["text"] != first
    seeded.load_state(state)
    assert seeded(TEXT, **hot)["choices"][0]["text"] == first
