"""instructor with a schema; and in the mode that needs nothing of a server, JSON in the text: so small a model rarely
keeps to it, so what is asked for is that instructor gets its answer, and either takes it or refuses what the model
wrote."""

import sys

import instructor
import openai
from instructor.core import IncompleteOutputException, InstructorRetryException
from pydantic import BaseModel

url, name = sys.argv[1:]


class Colour(BaseModel):
    name: str


client = instructor.from_openai(openai.OpenAI(base_url=url, api_key="none"), mode=instructor.Mode.MD_JSON)
try:
    found, raw = client.chat.completions.create_with_completion(
        model=name,
        messages=[{"role": "user", "content": "A colour."}],
        response_model=Colour,
        max_tokens=64,
        seed=1,
        max_retries=1,
    )
    assert isinstance(found, Colour) and raw.choices[0].message.content
except (IncompleteOutputException, InstructorRetryException) as refused:
    assert refused.last_completion.choices[0].message.content

client = instructor.from_openai(openai.OpenAI(base_url=url, api_key="none"), mode=instructor.Mode.JSON_SCHEMA)
asked = [{"role": "user", "content": "A colour."}]
found = client.chat.completions.create(model=name, messages=asked, response_model=Colour, max_tokens=200, temperature=0)
assert isinstance(found, Colour)
