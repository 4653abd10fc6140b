// openai for node where the queue is full: it waits as long as Retry-After says, and every request is answered.
import assert from "node:assert/strict";
import OpenAI from "openai";

const [url, name] = process.argv.slice(2);

async function ask(maxRetries) {
  const client = new OpenAI({ baseURL: url, apiKey: "none", maxRetries });
  try {
    const body = { model: name, prompt: "One, two", max_tokens: 50, ignore_eos: true };
    return (await client.completions.create(body)).usage.completion_tokens;
  } catch (error) {
    if (!(error instanceof OpenAI.RateLimitError)) throw error;
    assert.ok(Number(error.headers.get("retry-after")) >= 1);
    return 0;
  }
}

const eight = Array.from({ length: 8 });
assert.ok((await Promise.all(eight.map(() => ask(0)))).includes(0), "eight at once were not too many");
assert.deepEqual(await Promise.all(eight.map(() => ask(60))), eight.map(() => 50));
