"""openai for Python where the queue is full: it waits as long as Retry-After says, and every request is answered."""

import sys
from concurrent.futures import ThreadPoolExecutor

import openai

url, name = sys.argv[1:]


def ask(retries):
    client = openai.OpenAI(base_url=url, api_key="none", max_retries=retries)
    try:
        done = client.completions.create(model=name, prompt="One, two", max_tokens=50, extra_body={"ignore_eos": True})
    except openai.RateLimitError as error:
        assert int(error.response.headers["retry-after"]) >= 1, error.response.headers
        return 0
    return done.usage.completion_tokens


with ThreadPoolExecutor(8) as pool:
    assert 0 in pool.map(ask, [0] * 8), "eight at once were not too many"
    found = list(pool.map(ask, [60] * 8))
    assert found == [50] * 8, found
