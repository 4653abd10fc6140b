# ruff: noqa: E501
"""Answers in every family's form, as templates and other programs' tests record them, and what is read of them."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

__all__ = ["ANSWERS", "TOOLS", "Answer"]

TEXT, NUMBER = {"type": "string"}, {"type": "integer"}
TOOLS: dict[str, Any] = {
    "get_weather": {
        "type": "object",
        "properties": {"city": TEXT, "days": NUMBER, "metric": {"type": "boolean"}, "extra": {"type": "object"}},
        "required": ["city"],
    },
    "get_time": {"type": "object", "properties": {}},
    "write_file": {"type": "object", "properties": {"path": TEXT, "text": TEXT, "lines": {"type": "array"}}},
}
PARIS = '{"city": "Paris"}'
ODD = r'{"city": "a \"b\" } ] </tool_call> \\", "days": 3, "extra": {"x": [1, {"y": null}]}}'
CODE = "def f(x):\n    return {'a': [x < 1, \"é\"]}  # </param>\n"


class Answer(NamedTuple):
    """dialect: its name. begun: whether it begins within reasoning."""

    dialect: str
    text: str
    calls: list[tuple[str, str]] = []
    content: str = ""
    reasoning: str = ""
    begun: bool = False


def _hermes(name: str, arguments: str) -> str:
    return f'<tool_call>\n{{"name": "{name}", "arguments": {arguments}}}\n</tool_call>'


ONE, TIME = [("get_weather", PARIS)], ("get_time", "{}")
BOTH = [*ONE, TIME]
ANSWERS: dict[str, Answer] = {
    # ---- Hermes, Qwen -----------------------------------------------------------------------------------------------
    "hermes": Answer("hermes", _hermes("get_weather", PARIS), ONE),
    "hermes, cut in its last tag": Answer("hermes", _hermes("get_weather", PARIS)[:-5], ONE),
    "hermes, two": Answer("hermes", _hermes("get_weather", PARIS) + "\n" + _hermes("get_time", "{}"), BOTH),
    "hermes, odd": Answer("hermes", "I look.\n" + _hermes("get_weather", ODD), [("get_weather", ODD)], "I look."),
    "hermes, thoughts": Answer(
        "hermes", "<think>\nHm, <b>.\n</think>\n\nYes: \n\n" + _hermes("get_time", "{}"), [TIME], "Yes:", "Hm, <b>."
    ),
    "hermes, begun": Answer("hermes", "Hm.\n</think>\n\nNo.", [], "No.", "Hm.", True),
    "hermes, begun twice": Answer("hermes", "<think>\nHm.\n</think>\n\nNo.", [], "No.", "Hm.", True),
    "hermes, thoughts alone": Answer("hermes", "<think>\nHm, so\n", [], "", "Hm, so"),
    "hermes, no call": Answer("hermes", "A <tool_call> is a tag.\n", [], "A <tool_call> is a tag.\n"),
    "hermes, text": Answer("hermes", '  Hello <b>, { "a": 1 }  \n', [], '  Hello <b>, { "a": 1 }  \n'),
    "hermes, broken": Answer(
        "hermes",
        '<tool_call>\n{"name": "get_time", arguments}\n</tool_call>',
        [],
        '<tool_call>\n{"name": "get_time", arguments}\n</tool_call>',
    ),
    "hermes, cut before": Answer("hermes", '<tool_call>\n{"name": "get_w', [], '<tool_call>\n{"name": "get_w'),
    "hermes, cut within": Answer("hermes", _hermes("get_weather", PARIS)[:-19], [("get_weather", '{"city": "Pa')]),
    "hermes, arguments first": Answer(
        "hermes", f'<tool_call>{{"arguments": {PARIS}, "name": "get_weather"}}</tool_call>', ONE
    ),
    "hermes, none": Answer("hermes", '<tool_call>{"name": "get_time"}</tool_call>', [TIME]),
    "hermes, in a text": Answer(
        "hermes", f'<tool_call>{{"name": "get_weather", "arguments": {json.dumps(PARIS)}}}</tool_call>', ONE
    ),
    "hermes, list": Answer(
        "hermes",
        f'<tool_call>[{{"name": "get_weather", "arguments": {PARIS}}}, {{"name": "get_time"}}]</tool_call>',
        BOTH,
    ),
    "hermes, bracket too many": Answer(
        "hermes", f'<tool_call>\n{{"name": "get_weather", "arguments": {PARIS}}}}}\n</tool_call>', ONE
    ),
    "hermes, bracket missing": Answer(
        "hermes", f'<tool_call>\n{{"name": "get_weather", "arguments": {PARIS}\n</tool_call>', ONE
    ),
    "hermes, after": Answer("hermes", _hermes("get_weather", PARIS) + "\nDone. ", ONE, "Done. "),
    "generic": Answer("generic", _hermes("get_weather", PARIS), ONE),
    "nemotron": Answer(
        "nemotron",
        f'<TOOLCALL>[{{"name": "get_weather", "arguments": {PARIS}}}, {{"name": "get_time", "arguments": {{}}}}]</TOOLCALL>',
        BOTH,
    ),
    # ---- Llama ------------------------------------------------------------------------------------------------------
    "llama": Answer("llama", f'{{"name": "get_weather", "parameters": {PARIS}}}', ONE),
    "llama, tag": Answer("llama", f'<|python_tag|>{{"name": "get_weather", "parameters": {PARIS}}}', ONE),
    "llama, two": Answer(
        "llama", f'{{"name": "get_weather", "parameters": {PARIS}}}; {{"name": "get_time", "parameters": {{}}}}', BOTH
    ),
    "llama, typed": Answer("llama", f'{{"type": "function", "name": "get_weather", "parameters": {PARIS}}}', ONE),
    "llama, another name": Answer(
        "llama",
        '{"name": "Ada", "parameters": {}} is {"name": "x"}',
        [],
        '{"name": "Ada", "parameters": {}} is {"name": "x"}',
    ),
    "llama, JSON": Answer("llama", '{"a": {"b": [1]}}', [], '{"a": {"b": [1]}}'),
    # ---- Granite ----------------------------------------------------------------------------------------------------
    "granite": Answer("granite", f'<|tool_call|>[{{"name": "get_weather", "arguments": {PARIS}}}]', ONE),
    "granite, two": Answer(
        "granite",
        f'<|tool_call|> [\n  {{"arguments": {PARIS}, "name": "get_weather"}},\n  {{"name": "get_time", "arguments": {{}}}}\n]',
        BOTH,
    ),
    "granite, text": Answer(
        "granite", f'<tool_call> [{{"name": "get_weather", "arguments": {PARIS}}}]\nSo.', ONE, "So."
    ),
    "granite, thoughts": Answer(
        "granite", "<think>Hm.</think>\n<response>Yes, it is.\n</response>", [], "Yes, it is.", "Hm."
    ),
    # ---- Mistral ----------------------------------------------------------------------------------------------------
    "mistral": Answer("mistral", f"[TOOL_CALLS]get_weather[ARGS]{PARIS}[TOOL_CALLS]get_time[ARGS]{{}}", BOTH),
    "mistral, id": Answer("mistral", f"[TOOL_CALLS]get_weather[CALL_ID]a1B2c3D4e[ARGS]{PARIS}", ONE),
    "mistral, no tag": Answer("mistral", f"Well.[TOOL_CALLS]get_weather{PARIS}[TOOL_CALLS]get_time{{}}", BOTH, "Well."),
    "mistral, thoughts": Answer("mistral", "[THINK]Hm.[/THINK]Yes.", [], "Yes.", "Hm."),
    "mistral, thoughts unclosed": Answer("mistral", f"[THINK]Hm.[TOOL_CALLS]get_weather[ARGS]{PARIS}", ONE, "", "Hm."),
    "mistral, list": Answer(
        "mistral list",
        f' [TOOL_CALLS] [{{"name": "get_weather", "arguments": {PARIS}, "id": "a1B2c3D4e"}}, '
        '{"name": "get_time", "arguments": {}, "id": "a1B2c3D4f"}]',
        BOTH,
    ),
    "mistral, no call": Answer("mistral", "[TOOL_CALLS] not JSON at all", [], "[TOOL_CALLS] not JSON at all"),
    # ---- Command R --------------------------------------------------------------------------------------------------
    "command r7b": Answer(
        "command r7b",
        "<|START_THINKING|>I will look.<|END_THINKING|><|START_ACTION|>[\n    "
        f'{{"tool_call_id": "0", "tool_name": "get_weather", "parameters": {PARIS}}},\n    '
        '{"tool_call_id": "1", "tool_name": "get_time", "parameters": {}}\n]<|END_ACTION|>',
        BOTH,
        "",
        "I will look.",
    ),
    "command r7b, answer": Answer(
        "command r7b",
        "<|START_THINKING|> Hm. <|END_THINKING|>\n<|START_RESPONSE|>It rains.<|END_RESPONSE|>",
        [],
        "It rains.",
        "Hm.",
    ),
    "command r+": Answer(
        "command r+",
        f'Action:\n```json\n[\n    {{\n        "tool_name": "get_weather",\n        "parameters": {PARIS}\n    }}\n]```',
        ONE,
    ),
    "command r+, none": Answer("command r+", "Action: none.", [], "Action: none."),
    # ---- DeepSeek ---------------------------------------------------------------------------------------------------
    "deepseek": Answer(
        "deepseek",
        "<think>\nHm.\n</think>\n\n<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>get_weather\n"
        f"```json\n{PARIS}\n```<｜tool▁call▁end｜>\n<｜tool▁call▁begin｜>function<｜tool▁sep｜>get_time\n```json\n{{}}\n"
        "```<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
        BOTH,
        "",
        "Hm.",
    ),
    "deepseek v3.1": Answer(
        "deepseek v3.1",
        f"I look.<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>get_weather<｜tool▁sep｜>{PARIS}<｜tool▁call▁end｜>"
        "<｜tool▁call▁begin｜>get_time<｜tool▁sep｜>{}<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
        BOTH,
        "I look.",
    ),
    "deepseek, broken": Answer("deepseek", "<｜tool▁calls▁begin｜>so", [], "<｜tool▁calls▁begin｜>so"),
    # ---- Kimi -------------------------------------------------------------------------------------------------------
    "kimi": Answer(
        "kimi",
        "I look.<|tool_calls_section_begin|><|tool_call_begin|>functions.get_weather:0<|tool_call_argument_begin|>"
        f"{PARIS}<|tool_call_end|><|tool_call_begin|>functions.get_time:1<|tool_call_argument_begin|>{{}}<|tool_call_end|>"
        "<|tool_calls_section_end|>",
        BOTH,
        "I look.",
    ),
    # ---- gpt-oss ----------------------------------------------------------------------------------------------------
    "harmony": Answer(
        "harmony",
        "<|channel|>analysis<|message|>Need it.<|end|><|start|>assistant<|channel|>commentary to=functions.get_weather "
        f"<|constrain|>json<|message|>{PARIS}<|call|>",
        ONE,
        "",
        "Need it.",
    ),
    "harmony, role": Answer(
        "harmony", f" to=functions.get_weather<|channel|>commentary json<|message|>{PARIS}<|call|>", ONE
    ),
    "harmony, preamble": Answer(
        "harmony",
        "<|channel|>analysis<|message|>Long.<|end|><|start|>assistant<|channel|>commentary<|message|>**Plan**:\n1. Go<|end|>"
        f"<|start|>assistant<|channel|>commentary to=functions.get_weather<|constrain|>json<|message|>{PARIS}<|call|>",
        ONE,
        "**Plan**:\n1. Go",
        "Long.",
    ),
    "harmony, final": Answer(
        "harmony",
        "<|channel|>analysis<|message|>2 + 2.<|end|>\n<|start|>assistant<|channel|>final<|message|>2 + 2 = 4.<|return|>",
        [],
        "2 + 2 = 4.",
        "2 + 2.",
    ),
    "harmony, own tool": Answer(
        "harmony",
        '<|channel|>analysis to=browser.search code<|message|>{"query": "x"}<|call|>',
        [],
        "",
        '{"query": "x"}',
    ),
    "harmony, white space": Answer("harmony", " \n", [], " \n"),
    "harmony, plain": Answer("harmony", "Hello <|there", [], "Hello <|there"),
    # ---- tags -------------------------------------------------------------------------------------------------------
    "qwen coder": Answer(
        "qwen coder",
        "I look.\n\n<tool_call>\n<function=get_weather>\n<parameter=city>\nParis\n</parameter>\n<parameter=days>\n3\n</parameter>\n"
        '<parameter=metric>\nTrue\n</parameter>\n<parameter=extra>\n{"a": [1,  2]}\n</parameter>\n</function>\n</tool_call>',
        [("get_weather", '{"city": "Paris", "days": 3, "metric": true, "extra": {"a": [1,  2]}}')],
        "I look.",
    ),
    "qwen coder, code": Answer(
        "qwen coder",
        f"<tool_call>\n<function=write_file>\n<parameter=path>\na.py\n</parameter>\n<parameter=text>\n{CODE}\n</parameter>\n</function>\n"
        "</tool_call>\n<tool_call>\n<function=get_time>\n</function>\n</tool_call>",
        [("write_file", json.dumps({"path": "a.py", "text": CODE}, ensure_ascii=False)), TIME],
    ),
    "qwen coder, no outer tag": Answer(
        "qwen coder",
        "<function=get_weather>\n<parameter=city>\n12\n</parameter>\n</function>",
        [("get_weather", '{"city": "12"}')],
    ),
    "qwen coder, only the end of it": Answer(
        "qwen coder",
        "I look.\n<function=get_weather>\n<parameter=city>\n12\n</parameter>\n</function>\n</tool_call>\n"
        "<function=get_time>\n</function>\n</tool_call>",
        [("get_weather", '{"city": "12"}'), TIME],
        "I look.",
    ),
    "qwen coder, cut": Answer(
        "qwen coder", "<tool_call>\n<function=get_weather>\n<parameter=city>\nPar", [("get_weather", '{"city": "Par')]
    ),
    "qwen coder, wrong type": Answer(
        "qwen coder",
        "<tool_call>\n<function=get_weather>\n<parameter=days>\nthree\n</parameter>\n<parameter=other>\n[1]\n</parameter>\n",
        [("get_weather", '{"days": "three", "other": [1]}')],
    ),
    "seed-oss": Answer(
        "seed-oss",
        "<seed:think>Hm.</seed:think>\n<seed:tool_call>\n<function=get_weather>\n<parameter=city>Paris</parameter>\n"
        "<parameter=days>3</parameter>\n</function>\n</seed:tool_call>",
        [("get_weather", '{"city": "Paris", "days": 3}')],
        "",
        "Hm.",
    ),
    "glm": Answer(
        "glm",
        "\n<think>Hm.</think>\nI look.\n<tool_call>get_weather\n<arg_key>city</arg_key>\n<arg_value>Paris</arg_value>\n"
        "<arg_key>days</arg_key>\n<arg_value>3</arg_value>\n</tool_call>\n<tool_call>get_time\n</tool_call>",
        [("get_weather", '{"city": "Paris", "days": 3}'), TIME],
        "I look.",
        "Hm.",
    ),
    "glm, one line": Answer(
        "glm",
        "<tool_call>get_weather<arg_key>city</arg_key><arg_value>Paris</arg_value></tool_call><tool_call>get_time</tool_call>",
        BOTH,
    ),
    "glm, no call": Answer("glm", '<tool_call>\n{"a": 1}\n</tool_call>', [], '<tool_call>\n{"a": 1}\n</tool_call>'),
    # ---- LFM2 -------------------------------------------------------------------------------------------------------
    "lfm2": Answer(
        "lfm2", '<|tool_call_start|>[get_weather(city="Paris"), get_time()]<|tool_call_end|>So.', BOTH, "So."
    ),
    "lfm2, values": Answer(
        "lfm2",
        "<|tool_call_start|>[write_file(path='it\\'s', text=None, lines=[1, -2.5, True, {'a': 'ä'}, (3,)])]<|tool_call_end|>",
        [("write_file", '{"path": "it\'s", "text": null, "lines": [1, -2.5, true, {"a": "ä"}, [3]]}')],
    ),
    "lfm2, names in quotes": Answer(
        "lfm2",
        """<|tool_call_start|>[f("b c"=1, '"'="x", y="=")]<|tool_call_end|>""",
        [("f", '{"b c": 1, "\\"": "x", "y": "="}')],
    ),
    "lfm2, JSON": Answer(
        "lfm2", f'<|tool_call_start|>[{{"name": "get_weather", "arguments": {PARIS}}}]<|tool_call_end|>', ONE
    ),
    "lfm2, lines": Answer(
        "lfm2",
        "<|tool_call_start|>[write_file(path='a\nb', lines={'x'})]<|tool_call_end|>",
        [("write_file", '{"path": "a\\nb", "lines": ["x"]}')],
    ),
    "lfm2, broken": Answer(
        "lfm2", "<|tool_call_start|>[f(x]<|tool_call_end|>", [], "<|tool_call_start|>[f(x]<|tool_call_end|>"
    ),
}
