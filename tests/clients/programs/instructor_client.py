"""instructor with a schema and with tools, whole and in parts; and in the mode that needs nothing of a server, JSON in
the text: so small a model rarely keeps to it, so what is asked for is that instructor gets its answer, and either takes
it or refuses what the model wrote."""

import sys

import instructor
import openai
from instructor.core import IncompleteOutputException, InstructorRetryException
from pydantic import BaseModel, ConfigDict, Field

url, name = sys.argv[1:]
asked = {"model": name, "messages": [{"role": "user", "content": "A colour."}]}


class Colour(BaseModel):
    model_config = ConfigDict(extra="forbid")
    name: str = Field(max_length=20)


def client(mode: instructor.Mode) -> instructor.Instructor:
    return instructor.from_openai(openai.OpenAI(base_url=url, api_key="none"), mode=mode)


try:
    found, raw = client(instructor.Mode.MD_JSON).chat.completions.create_with_completion(
        **asked, response_model=Colour, max_tokens=64, seed=1, max_retries=1
    )
    assert isinstance(found, Colour) and raw.choices[0].message.content
except (IncompleteOutputException, InstructorRetryException) as refused:
    assert refused.last_completion.choices[0].message.content

for mode in (instructor.Mode.JSON_SCHEMA, instructor.Mode.TOOLS, instructor.Mode.TOOLS_STRICT):
    completions = client(mode).chat.completions
    options = {**asked, "response_model": Colour, "max_tokens": 200, "temperature": 0, "max_retries": 0}
    found = completions.create(**options)
    assert isinstance(found, Colour), mode
    *_, last = completions.create_partial(**options)  # of another schema, all of whose properties may be missing
    assert isinstance(last.name, str) and len(last.name) <= 20, mode
