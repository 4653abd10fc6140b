"""Finds a title for each text, with a chain of LangChain: python examples/langchain_titles.py "Owls hunt at night."

`batch` answers all texts at once, in the same passes of the model.
"""

from __future__ import annotations

import argparse

from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate

from pellucid.adapters.langchain import ChatPellucid


def main() -> None:
    parser = argparse.ArgumentParser(description="Finds a title for each text.")
    parser.add_argument("text", nargs="+")
    parser.add_argument("--model", default="smollm2-135m")
    arguments = parser.parse_args()

    prompt = ChatPromptTemplate.from_messages(
        [("system", "Answer with a title of at most five words."), ("human", "Find a title for this text: {text}")]
    )
    chat = ChatPellucid(model=arguments.model, temperature=0, max_tokens=16, stop=["\n"])
    titles = prompt | chat | StrOutputParser()
    for title in titles.batch([{"text": text} for text in arguments.text]):
        print(title.strip())


if __name__ == "__main__":
    main()
