"""A chat bot that remembers the conversation: python examples/chat_bot.py

The context keeps the keys and values of earlier turns, so that each turn computes only what is new. When they no longer
fit, the oldest turns are left out. Ends with Ctrl-D.
"""

from __future__ import annotations

import argparse

from pellucid import Context, Model


def answer(context: Context, history: list[dict[str, str]], max_tokens: int) -> str:
    """The next message, printed as it is generated."""
    with context.chat(history, stream=True, max_tokens=max_tokens, on_full="trim") as stream:
        for piece in stream:
            print(piece.text, end="", flush=True)
    print(f" ({stream.dropped} earlier messages left out)" if stream.dropped else "")
    return stream.text


def main() -> None:
    parser = argparse.ArgumentParser(description="A chat bot that remembers the conversation.")
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--system", default="You are a helpful assistant. Answer in one or two sentences.")
    parser.add_argument(
        "--context", type=int, help="tokens that the bot remembers (default: the model's, at most 8192)"
    )
    parser.add_argument("--max-tokens", type=int, default=128)
    arguments = parser.parse_args()

    with Model.load(arguments.model, context=arguments.context) as model, model.context() as context:
        history = [{"role": "system", "content": arguments.system}]
        while True:
            try:
                question = input("> ")
            except EOFError:
                break
            history.append({"role": "user", "content": question})
            history.append({"role": "assistant", "content": answer(context, history, arguments.max_tokens)})


if __name__ == "__main__":
    main()
