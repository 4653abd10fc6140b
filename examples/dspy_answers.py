"""Answers questions with a DSPy program: python examples/dspy_answers.py "What is the capital of France?"

DSPy calls models by litellm, which a provider of Pellucid's makes run in this process. The adapter for JSON binds each
answer to the signature's fields.
"""

from __future__ import annotations

import argparse

import dspy

from pellucid.adapters.litellm import register


class Answer(dspy.Signature):
    """Answer the question in a few words."""

    question: str = dspy.InputField()
    answer: str = dspy.OutputField()


def main() -> None:
    parser = argparse.ArgumentParser(description="Answers questions with a DSPy program.")
    parser.add_argument("question", nargs="+")
    parser.add_argument("--model", default="smollm2-135m")
    arguments = parser.parse_args()

    register(names=[arguments.model])
    lm = dspy.LM(f"pellucid/{arguments.model}", temperature=0, max_tokens=120, cache=False)
    dspy.configure(lm=lm, adapter=dspy.JSONAdapter())
    answer = dspy.Predict(Answer)
    for question in arguments.question:
        print(answer(question=question).answer)


if __name__ == "__main__":
    main()
