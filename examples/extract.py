"""Makes a table of the facts in texts, one per line: python examples/extract.py < lines.txt

The lines are read at once, in the same passes. Each answer is JSON by a schema, so that all have the same columns.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

from pellucid import Model

COLUMNS = {
    "name": {"type": "string", "maxLength": 20},
    "age": {"type": ["integer", "null"], "minimum": 0, "maximum": 120},
    "city": {"type": ["string", "null"], "maxLength": 20},
}
SCHEMA = {"type": "object", "properties": COLUMNS, "required": list(COLUMNS), "additionalProperties": False}
PROMPT = """\
Text: Maria moved to Lisbon when she was 40.
JSON: {"name":"Maria","age":40,"city":"Lisbon"}

Text: %s
JSON: """


def main() -> None:
    parser = argparse.ArgumentParser(description="Makes a table of the people in the lines of standard input.")
    parser.add_argument("--model", default="smollm2-135m")
    arguments = parser.parse_args()

    texts = [line for line in sys.stdin.read().splitlines() if line.strip()]
    with Model.load(arguments.model) as model:
        prompts = [PROMPT % text for text in texts]
        for done in model.map(prompts, schema=SCHEMA, temperature=0, max_tokens=80):
            found: dict[str, Any] = done.parsed or {}  # None if it was cut off
            print("\t".join(str(found.get(column, "")) for column in COLUMNS))


if __name__ == "__main__":
    main()
