"""Which attention heads does an answer depend on? python examples/remove_heads.py "The capital of France is"

Takes the heads that changed the logit of the next token most, removes them one after the other, by an edit, and shows
how probable the token is without them. The model itself does not change: an edit is a view of it.
"""

from __future__ import annotations

import argparse
from math import exp

from pellucid import Model
from pellucid.look import tables


def probability(model: Model, ids: list[int], token: int) -> float:
    """The probability of a token after others."""
    with model.context() as context:
        context.append(ids)
        [score] = context.score([[token]])
    return exp(score.total)


def main() -> None:
    parser = argparse.ArgumentParser(description="Removes the heads that an answer depends on, one after the other.")
    parser.add_argument("text", nargs="?", default="The capital of France is")
    parser.add_argument("--heads", type=int, default=5, help="how many (default: 5)")
    parser.add_argument("--model", default="smollm2-135m")
    arguments = parser.parse_args()

    with Model.load(arguments.model) as model:
        trace = model.trace(arguments.text, ("hidden", "attention"))
        [token, *_] = trace.top(k=1)
        print(f"{token.piece!r}: {probability(model, trace.ids, token.id):.3f}")
        with model.edit() as edited:
            for push in tables.heads(trace, n=arguments.heads):
                edited.scale_head(push.layer, push.head, 0.0)
                left = probability(edited, trace.ids, token.id)
                print(f"without head {push.head} of layer {push.layer} ({push.logits:+.2f}): {left:.3f}")
            print("now:", edited.generate(arguments.text, max_tokens=8, temperature=0).text)


if __name__ == "__main__":
    main()
