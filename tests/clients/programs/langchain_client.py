"""langchain-openai: invoke, stream, batch, async, and the completions of OpenAI."""

import asyncio
import json
import sys

from langchain_openai import ChatOpenAI, OpenAI
from pydantic import BaseModel, Field

url, name, expected = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
options = {"model": name, "base_url": url, "api_key": "none", "temperature": 0, "max_retries": 0}
chat = ChatOpenAI(**options, max_tokens=24)
prompt = "Name three colours."

done = chat.invoke(prompt)
assert done.content == expected["greedy"] and done.usage_metadata["output_tokens"] > 0
assert "".join(chunk.content for chunk in chat.stream(prompt)) == expected["greedy"]
assert [m.content for m in chat.batch([prompt] * 3)] == [expected["greedy"]] * 3
assert asyncio.run(chat.ainvoke(prompt)).content == expected["greedy"]
assert OpenAI(**options, max_tokens=8).invoke("The capital of France is") == expected["completion"]


class Person(BaseModel):
    name: str = Field(max_length=12)
    age: int = Field(ge=0, le=99)


person = ChatOpenAI(**options, max_tokens=60).with_structured_output(Person, method="json_schema")
assert isinstance(person.invoke("Invent a person."), Person)
