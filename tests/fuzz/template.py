"""Chat templates and messages: each is refused, or renders within its budget. An input is a JSON table of "template",
"messages" and perhaps "tools"; under "expect" the text that must come out."""

from __future__ import annotations

import functools
import json
import random
import re
import tempfile
from pathlib import Path
from typing import Any

from pellucid import Tokenizer
from tests.fuzz.mutation import number, text, varied
from tests.text import hostile as templates
from tests.weights import hostile

__all__ = ["known", "mutate", "run"]

MESSAGES: list[Any] = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Hello <s> \u202e é\0"},
    {"role": "assistant", "content": [{"type": "text", "text": "Hi"}]},
    {"role": "user", "content": "And?"},
]
TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}]
FILTERS = (
    "abs attr batch capitalize center count default dictsort e escape filesizeformat first float forceescape format "
    "groupby indent int items join last length list lower map max min pprint random reject rejectattr replace reverse "
    "round safe select selectattr slice sort string striptags sum title tojson trim truncate unique upper urlencode "
    "urlize wordcount wordwrap xmlattr"
).split()
NAMES = (
    "messages",
    "messages[0]",
    "m",
    "m.content",
    "loop",
    "loop.index",
    "bos_token",
    "tools",
    "ns.x",
    "range(9)",
    "x",
)
PARTS = re.compile(r"(\{%-?|-?%\}|\{\{-?|-?\}\}|\{#|#\}|\s+|[|.,()\[\]=+~*/<>'\"-])")


@functools.lru_cache
def _sound() -> list[str]:
    folder = Path(__file__).resolve().parent.parent / "text" / "templates"
    return [path.read_text() for path in sorted(folder.glob("*")) if path.is_file()]


@functools.lru_cache
def _tokenizer() -> Tokenizer:
    with tempfile.NamedTemporaryFile(suffix=".gguf") as file:
        file.write(hostile.spm(hostile.model()).bytes())
        file.flush()
        return Tokenizer.load(file.name)


def mutate(rng: random.Random) -> bytes:
    source = rng.choice((rng.choice(_sound()), _program(rng), rng.choice([*templates.FOREVER.values(), *GROWING])))
    parts = PARTS.split(source)
    for _ in range(rng.choice((0, 1, 1, 2, 4))):
        at = rng.randrange(len(parts))
        end = min(at + rng.randint(1, 12), len(parts))
        change = rng.randrange(5)
        if change == 0:
            del parts[at:end]
        elif change == 1:
            parts[at:at] = parts[at:end] * rng.choice((1, 1, 30))
        elif change == 2:
            parts[at:at] = [_expression(rng, 2)]
        elif change == 3:
            parts[at] = rng.choice((str(number(rng)), repr(text(rng)), rng.choice(NAMES)))
        else:
            parts[at:at] = [_program(rng)]
        parts = parts or [""]
    messages = MESSAGES[: rng.randint(1, 4)]
    if rng.random() < 0.2:
        messages = varied(rng, messages)
    table = {"template": "".join(parts)[:200_000], "messages": messages, "tools": TOOLS if rng.random() < 0.3 else None}
    return json.dumps(table).encode()


def run(data: bytes) -> None:
    try:
        table = json.loads(data)
        template = str(table["template"])
    except (ValueError, KeyError, TypeError):  # a part of an input
        return
    made = _tokenizer().chat(template).prompt(table.get("messages"), tools=table.get("tools"))
    if made.text != table.get("expect", made.text):
        raise AssertionError(f"rendered {made.text!r:.100}, expected {table['expect']!r:.100}")


GROWING = list(templates.GROWING.values())
RIGHT = {
    "{{ [{'a': 1}, {'a': 2}]|sum(attribute='a') }}": "3",
    "{{ [1, 2]|sum(start=4) }}": "7",
    "{{ 'aba'|replace(old='a', new='c') }}": "cbc",
    "{{ 'a'|center(width=5) }}": "  a  ",
    "{{ [3, 1, 1]|unique|join(',') }}": "3,1",
    "{% for m in messages %}{{ m.role }}:{{ m.content }};{% endfor %}": "user:hello;" * 5000,
}


def known() -> dict[str, bytes]:
    colliding = {name: source for name, source in templates.FOREVER.items() if "share a hash" in name}
    packed = {name: json.dumps({"template": t, "messages": MESSAGES}).encode() for name, t in colliding.items()}
    for source, expect in RIGHT.items():
        messages = [{"role": "user", "content": "hello"}] * 5000
        packed[source] = json.dumps({"template": source, "messages": messages, "expect": expect}).encode()
    return packed


# ---- new templates --------------------------------------------------------------------------------------------------


def _expression(rng: random.Random, depth: int) -> str:
    if depth == 0 or rng.random() < 0.2:
        return rng.choice((rng.choice(NAMES), str(number(rng)), repr(text(rng)), "[1, 2, 'a']", "{'a': 1}", "none"))
    one, two = _expression(rng, depth - 1), _expression(rng, depth - 1)
    return rng.choice(
        (
            f"{one}|{rng.choice(FILTERS)}",
            f"{one}|{rng.choice(FILTERS)}({two})",
            f"{one}|{rng.choice(FILTERS)}({rng.choice(('attribute', 'width', 'start', 'n', 'value'))}={two})",
            f"({one} {rng.choice(('+', '-', '*', '**', '//', '%', '~', 'in', '==', '<', 'and', 'or', 'is'))} {two})",
            f"{one}[{two}:]",
            f"{one}.{rng.choice(('format', 'join', 'split', 'replace', 'items', '__class__', 'upper'))}({two})",
            f"({one} if {two} else {one})",
            f"range({one})",
            f"dict(a={one})",
        )
    )


def _program(rng: random.Random, depth: int = 2) -> str:
    inner = _program(rng, depth - 1) if depth else "{{ x }}"
    value = _expression(rng, 2)
    return rng.choice(
        (
            f"{{% for x in {value} %}}{inner}{{% endfor %}}",
            f"{{% set x = {value} %}}{inner}",
            f"{{% set ns = namespace(x=1) %}}{{% for m in tools %}}{{% set ns.x = {value} %}}{{% endfor %}}{inner}",
            f"{{% macro f(x) %}}{inner}{{% endmacro %}}{{{{ f({value}) }}}}",
            f"{{% if {value} %}}{inner}{{% else %}}{{{{ {value} }}}}{{% endif %}}",
            f"{{% filter {rng.choice(FILTERS)} %}}{inner}{{% endfilter %}}",
            f"{{{{ {value} }}}}{inner}",
        )
    )
