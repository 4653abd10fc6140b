"""A program written for llama-cpp-python: python examples/llama_cpp_chat.py "Name three colours."

The first lines are all that changed: from then on `import llama_cpp` finds Pellucid, here and in packages that are
built on it.
"""

from __future__ import annotations

import argparse

from pellucid.compat.llama_cpp import install
from pellucid.weights import catalog

install()


def main() -> None:
    parser = argparse.ArgumentParser(description="Answers a question, as it is generated.")
    parser.add_argument("question", nargs="?", default="Name three colours.")
    parser.add_argument("--model", help="a GGUF file (default: SmolLM2)")
    arguments = parser.parse_args()

    from llama_cpp import Llama

    llm = Llama(model_path=arguments.model or str(catalog.fetch("smollm2-135m")), n_ctx=2048, verbose=False)
    messages = [{"role": "user", "content": arguments.question}]
    for chunk in llm.create_chat_completion(messages, max_tokens=64, stream=True):
        print(chunk["choices"][0]["delta"].get("content", ""), end="", flush=True)
    print()


if __name__ == "__main__":
    main()
