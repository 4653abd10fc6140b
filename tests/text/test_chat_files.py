"""What a folder says of its chats beside the template's text: names of special tokens, a template for tools."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pellucid import Tokenizer
from pellucid.errors import ChatTemplateError, TokenizerError
from pellucid.making.vocabulary import tokenizer_metadata
from pellucid.weights.writer import Value, write_gguf
from tests.making.test_convert import MAKE

NAMES = ("bos", "eos", "unk", "sep", "pad", "cls", "mask", "image", "audio", "video")
SHOWN = "|".join(f"{{{{ {name}_token if {name}_token is defined else 'none' }}}}" for name in NAMES)
USER = [{"role": "user", "content": "x"}]
TOOLS = [{"type": "function", "function": {"name": "f", "description": "d", "parameters": {"type": "object"}}}]
ADDED = ("<s>", "</s>", "<unk>", "[SEP]", "<pad>", "[CLS]", "[MASK]", "<image>")


@pytest.fixture(params=["tokenizer.json", "tokenizer.model"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    made = MAKE["gpt-2" if request.param == "tokenizer.json" else "spm"](tmp_path / "folder")
    (made / "tokenizer_config.json").unlink(missing_ok=True)
    return made


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A folder with a tokenizer.json of bytes and the tokens of ADDED, which transformers reads, too."""
    import tokenizers
    from tokenizers import decoders, models, pre_tokenizers

    made = tokenizers.Tokenizer(
        models.BPE({c: i for i, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}, [])
    )
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    made.add_special_tokens([*ADDED])
    folder = tmp_path / "own"
    folder.mkdir()
    (folder / "tokenizer.json").write_text(made.to_str())
    return folder


def write(folder: Path, files: dict[str, Any]) -> Path:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(content if isinstance(content, str) else json.dumps(content))
    return folder


def shown(path: Path, tools: Any = None) -> str:
    return Tokenizer.load(path).chat().conversation(USER, tools=tools).text


def converted(folder: Path) -> Path:
    write_gguf(folder / "made.gguf", tokenizer_metadata(str(folder), 700), [])
    return folder / "made.gguf"


# ---- names of special tokens ---------------------------------------------------------------------------------------

FAST = {"tokenizer_class": "PreTrainedTokenizerFast"}
NAMED: dict[str, tuple[dict[str, Any], str]] = {
    "all": (
        {"tokenizer_config.json": {
            "bos_token": "<s>", "eos_token": {"content": "</s>", "__type": "AddedToken"}, "unk_token": "<unk>",
            "sep_token": "[SEP]", "pad_token": "<pad>", "cls_token": "[CLS]", "mask_token": "[MASK]",
            "extra_special_tokens": {"image_token": "<image>"}, "audio_token": "[CLS]", "add_bos_token": False,
        }},
        "<s>|</s>|<unk>|[SEP]|<pad>|[CLS]|[MASK]|<image>|[CLS]|none",
    ),
    "none": (
        {"tokenizer_config.json": {"pad_token": None, "extra_special_tokens": ["<image>"], "video_token": None}},
        "none|none|none|none|none|none|none|none|none|none",
    ),
    "a map of its own": (
        {"tokenizer_config.json": {"pad_token": "<s>", "sep_token": "[SEP]"},
         "special_tokens_map.json": {"pad_token": {"content": "<pad>", "lstrip": False}, "cls_token": "[CLS]"}},
        "none|none|none|[SEP]|<pad>|[CLS]|none|none|none|none",
    ),
    "a map that does not count": (
        {"tokenizer_config.json": {"pad_token": "<s>", "added_tokens_decoder": {}},
         "special_tokens_map.json": {"pad_token": "<pad>", "cls_token": "[CLS]"}},
        "none|none|none|none|<s>|none|none|none|none|none",
    ),
}  # fmt: skip


def with_template(files: dict[str, Any], template: Any) -> dict[str, Any]:
    return {**files, "tokenizer_config.json": {**FAST, **files["tokenizer_config.json"], "chat_template": template}}


@pytest.mark.parametrize("case", NAMED)
def test_names_of_a_tokenizer_json(case: str, own: Path) -> None:
    files, expected = NAMED[case]
    assert shown(write(own, with_template(files, SHOWN))) == expected


@pytest.mark.live
@pytest.mark.parametrize("case", NAMED)
def test_they_are_those_of_transformers(case: str, own: Path) -> None:
    import transformers

    files, expected = NAMED[case]
    theirs = transformers.AutoTokenizer.from_pretrained(write(own, with_template(files, SHOWN)))
    assert theirs.apply_chat_template(USER, tokenize=False) == expected


def test_names_of_a_folder_and_of_the_file_made_of_it(folder: Path) -> None:
    pieces = [*Tokenizer.load(folder)._text.special]
    config = {"sep_token": pieces[0], "pad_token": pieces[-1], "extra_special_tokens": {"image_token": "<image>"}}
    write(folder, {"tokenizer_config.json": {**config, "chat_template": "{{ sep_token }}|{{ pad_token }}"}})
    expected = f"{pieces[0]}|{pieces[-1]}"
    assert shown(folder) == expected and shown(converted(folder)) == expected
    write(folder, {"tokenizer_config.json": {**config, "chat_template": "{{ image_token }}"}})
    assert shown(folder) == "<image>"


def test_names_of_gguf(own: Path) -> None:
    metadata = tokenizer_metadata(str(write(own, {"tokenizer_config.json": {"chat_template": SHOWN}})), 300)
    for name, id in (("cls", 261), ("seperator", 259), ("mask", 999)):
        metadata[f"tokenizer.ggml.{name}_token_id"] = Value("uint32", id)
    write_gguf(own / "made.gguf", metadata, [])
    assert shown(own / "made.gguf").split("|")[3:7] == ["[SEP]", "<pad>", "[CLS]", "none"]
    metadata["tokenizer.ggml.mask_token_id"] = Value("string", "x")
    write_gguf(own / "made.gguf", metadata, [])
    with pytest.raises(TokenizerError, match="tokenizer.ggml.mask_token_id"):
        Tokenizer.load(own / "made.gguf")


# ---- templates -----------------------------------------------------------------------------------------------------

SAID, TOOL = "D{{ messages[0].content }}", "T{{ tools[0].function.name }}{{ messages[0].content }}"
BOTH = [{"name": "default", "template": SAID}, {"name": "tool_use", "template": TOOL}]
JINJA, DEFAULT, TOOL_USE = "chat_template.jinja", "additional_chat_templates/default.jinja", "tool_use.jinja"
TOOL_USE = f"additional_chat_templates/{TOOL_USE}"
# Files beside a configuration's template -> (prompt, with tools); None: nothing is known of them.
TEMPLATES: dict[str, tuple[Any, dict[str, str], str, str]] = {
    "a list": (BOTH, {}, "Dx", "Tfx"),
    "a list with one twice": ([{"name": "default", "template": "A"}, *BOTH], {}, "Dx", "Tfx"),
    "a table": ({"default": SAID, "tool_use": TOOL}, {}, "Dx", "Tfx"),
    "a file for tools": (None, {JINJA: SAID, TOOL_USE: TOOL}, "Dx", "Tfx"),
    "files of the other folder alone": ("C", {DEFAULT: SAID, TOOL_USE: TOOL}, "Dx", "Tfx"),
    "two files": ("C", {DEFAULT: SAID, JINJA: "J", TOOL_USE: TOOL}, "Dx", "Tfx"),
    "files win over the configuration": ([{"name": "default", "template": "C"}], {JINJA: SAID, TOOL_USE: TOOL}, "Dx",
                                         "Tfx"),
}  # fmt: skip
WITHOUT = {
    "a table of one": ({"default": SAID + "{{ tools[0].function.name }}"}, {}),
    "a file wins over a list": (BOTH, {JINJA: SAID + "{{ tools[0].function.name }}"}),
    "one file": (None, {DEFAULT: SAID + "{{ tools[0].function.name }}"}),
}


def templates(folder: Path, value: Any, files: dict[str, str]) -> Path:
    return write(folder, {**files, "tokenizer_config.json": {**FAST, **({"chat_template": value} if value else {})}})


@pytest.mark.parametrize("case", TEMPLATES)
def test_a_template_for_tools(case: str, folder: Path) -> None:
    value, files, plain, tools = TEMPLATES[case]
    for path in (templates(folder, value, files), converted(folder)):
        assert (shown(path), shown(path, TOOLS)) == (plain, tools)
        chat = Tokenizer.load(path).chat()
        assert shown(path, []) == plain and chat.of([]) is chat and chat.of(TOOLS).source == TOOL
        assert chat.prompt(USER, tools=TOOLS).text == tools
        prompt = chat.conversation([*USER, *USER], tools=TOOLS)
        assert chat.opening(prompt, USER, tools=TOOLS)[:2] == prompt.ids[:2] != chat.opening(prompt, USER)[:2]
        given = Tokenizer.load(path).chat("G{{ tools[0].function.name }}")
        assert given.conversation(USER, tools=TOOLS).text == "Gf"


@pytest.mark.parametrize("case", WITHOUT)
def test_no_template_for_tools(case: str, folder: Path) -> None:
    assert shown(templates(folder, *WITHOUT[case]), TOOLS) == "Dxf"


@pytest.mark.live
@pytest.mark.parametrize("case", [*TEMPLATES, *WITHOUT])
def test_they_are_chosen_as_transformers_chooses(case: str, own: Path) -> None:
    import transformers

    value, files, *expected = TEMPLATES[case] if case in TEMPLATES else (*WITHOUT[case], "", "Dxf")
    theirs = transformers.AutoTokenizer.from_pretrained(templates(own, value, files))
    assert theirs.apply_chat_template(USER, tools=TOOLS, tokenize=False) == expected[1]
    assert not expected[0] or theirs.apply_chat_template(USER, tokenize=False) == expected[0]


def test_a_template_for_tools_that_writes_no_name(folder: Path) -> None:
    """It gets them all the same; nothing is written for it."""
    made = templates(folder, {"default": SAID, "tool_use": "{{ tools | length }}{{ messages[0].content }}"}, {})
    assert shown(made, TOOLS) == f"{len(TOOLS)}x"


def test_a_broken_template_for_tools(folder: Path) -> None:
    made = templates(folder, {"default": SAID, "tool_use": "{% if %}"}, {})
    assert shown(made) == "Dx"
    with pytest.raises(ChatTemplateError, match="of conversations with tools: the chat template is broken"):
        shown(made, TOOLS)
