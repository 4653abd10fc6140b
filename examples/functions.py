"""Functions that a model may call: pellucid chat --tools examples/functions.py, or python examples/functions.py

Run as a program, it asks the model to call one of them for each line of input, and prints the call and its result.
"""

from __future__ import annotations

import argparse
import sys
from datetime import date, timedelta
from typing import Literal

from pellucid import Model, functions


def convert(value: float, unit: Literal["km", "kg", "litres"]) -> str:
    """Converts kilometres to miles, kilograms to pounds, or litres to gallons.

    Args:
        value: How many.
        unit: What `value` is in.
    """
    factor, name = {"km": (0.621371, "miles"), "kg": (2.204623, "pounds"), "litres": (0.264172, "gallons")}[unit]
    return f"{value * factor:.2f} {name}"


def day_of_the_week(days_from_today: int = 0) -> str:
    """The day of the week, today or so many days later."""
    return f"{date.today() + timedelta(days=days_from_today):%A}"


def main() -> None:
    parser = argparse.ArgumentParser(description="Calls a function for each line of input.")
    parser.add_argument("--model", default="smollm2-135m")
    arguments = parser.parse_args()
    known = {function.__name__: function for function in (convert, day_of_the_week)}
    with Model.load(arguments.model) as model:
        for line in sys.stdin:
            asked = model.chat(
                [{"role": "user", "content": line.strip()}],
                tools=list(known.values()),
                tool_choice="required",
                parallel_tool_calls=False,
                temperature=0,
                max_tokens=100,
            )
            for call in asked.tool_calls:
                print(f"{call.name}({call.arguments}) -> {functions.run(known, call.name, call.arguments)}")


if __name__ == "__main__":
    main()
