"""Finds the lines of a file that answer a question best: python examples/search.py "Who hunts at night?" < lines.txt

Embeddings find them; with --reranker, a second model orders the best of them. The default model was not trained to
embed: EmbeddingGemma, Qwen3-Embedding or a bge model (--model FILE --pooling auto) finds more.
"""

from __future__ import annotations

import argparse
import sys

from pellucid import Model


def main() -> None:
    parser = argparse.ArgumentParser(description="Find the lines that answer a question best.")
    parser.add_argument("question")
    parser.add_argument("--model", default="smollm2-135m", help="model that embeds")
    parser.add_argument(
        "--pooling", default="mean", choices=["auto", "last", "first", "mean"], help="auto: the model's"
    )
    parser.add_argument("--instruction", help='put before the question, or the name of a prompt, such as "query"')
    parser.add_argument("--reranker", help="model that orders the lines found, such as Qwen3-Reranker")
    parser.add_argument("--count", type=int, default=3, help="lines to show")
    options = parser.parse_args()
    lines = [line for line in sys.stdin.read().splitlines() if line.strip()]
    pooling = None if options.pooling == "auto" else options.pooling

    with Model.load(options.model) as model:
        vectors = model.embed(lines, pooling=pooling)
        (question,) = model.embed(options.question, pooling=pooling, instruction=options.instruction)
    scores = vectors @ question  # rows have length 1: cosines
    best = scores.argsort()[::-1].tolist()

    if options.reranker:
        best = best[: 10 * options.count]
        with Model.load(options.reranker) as model:
            ranked = model.rerank(options.question, [lines[i] for i in best])
        found = [(best[i], score) for i, score in ranked]
    else:
        found = [(i, float(scores[i])) for i in best]
    for i, score in found[: options.count]:
        print(f"{score:.3f} {lines[i]}")


if __name__ == "__main__":
    main()
