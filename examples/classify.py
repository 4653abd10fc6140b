"""Classifies lines by examples: python examples/classify.py --examples examples.tsv < lines.txt

Each line of the examples is a text, a tab and its label. They are computed once; each line costs only its own tokens
and those of the labels.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from math import exp
from pathlib import Path

from pellucid import Context, Model

EXAMPLES = """\
I would watch it again tonight.\tpositive
Two hours that I will never get back.\tnegative
The best film of the year, and the funniest.\tpositive
The plot is thin and the actors look bored.\tnegative
"""


def few_shot(model: Model, examples: Iterable[tuple[str, str]]) -> Context:
    """A context that holds the examples."""
    context = model.context()
    context.append("".join(f"Text: {text}\nLabel: {label}\n\n" for text, label in examples))
    return context


def classify(examples: Context, labels: list[str], text: str) -> tuple[str, float]:
    """The most probable label, and its probability among the labels."""
    with examples.fork() as context:
        context.append(f"Text: {text}\nLabel:")
        scores = [score.total for score in context.score([f" {label}" for label in labels])]
    best = max(scores)
    return labels[scores.index(best)], 1 / sum(exp(score - best) for score in scores)


def main() -> None:
    parser = argparse.ArgumentParser(description="Classifies the lines of standard input by examples.")
    parser.add_argument("--examples", type=Path, help="lines of text, tab, label (default: reviews of films)")
    parser.add_argument("--model", default="smollm2-135m")
    arguments = parser.parse_args()

    lines = (arguments.examples.read_text() if arguments.examples else EXAMPLES).splitlines()
    examples = [(text, label) for text, _, label in (line.rpartition("\t") for line in lines)]
    labels = sorted({label for _, label in examples})
    with Model.load(arguments.model) as model, few_shot(model, examples) as context:
        for line in sys.stdin.read().splitlines():
            label, probability = classify(context, labels, line)
            print(f"{label}\t{probability:.2f}\t{line}")


if __name__ == "__main__":
    main()
