"""Fills in a form from a text, with the library `llm`: python examples/llm_forms.py "Maria, 40, lives in Lisbon."

`llm` finds Pellucid's models by itself once both are installed. The answer is bound to the form's fields.
"""

from __future__ import annotations

import argparse
import json

import llm

FORM = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 20}, "city": {"type": "string", "maxLength": 20}},
    "required": ["name", "city"],
    "additionalProperties": False,
}


def main() -> None:
    parser = argparse.ArgumentParser(description="Finds a name and a city in texts, a line each.")
    parser.add_argument("text", nargs="+")
    parser.add_argument("--model", default="smollm2-135m")
    arguments = parser.parse_args()

    model = llm.get_model(f"pellucid/{arguments.model}")
    for text in arguments.text:
        response = model.prompt(f"Who is it, and where? {text}", schema=FORM, temperature=0, max_tokens=80)
        found = json.loads(response.text())
        print(found["name"], found["city"], sep="\t")


if __name__ == "__main__":
    main()
