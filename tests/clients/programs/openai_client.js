// openai for node: chat, streams, choices, completions, models, typed errors, a stream that is left.
import assert from "node:assert/strict";
import OpenAI from "openai";

const [url, name, json] = process.argv.slice(2);
const expected = JSON.parse(json);
const client = new OpenAI({ baseURL: url, apiKey: "none", maxRetries: 0 });
const chat = { model: name, messages: [{ role: "user", content: "Name three colours." }], max_tokens: 24 };

const done = await client.chat.completions.create({ ...chat, temperature: 0 });
assert.equal(done.choices[0].message.content, expected.greedy);

let text = "";
for await (const chunk of await client.chat.completions.create({ ...chat, temperature: 0, stream: true }))
  text += chunk.choices[0]?.delta?.content ?? "";
assert.equal(text, expected.greedy);
const runner = client.chat.completions.stream({ ...chat, temperature: 0 });
assert.equal(await runner.finalContent(), expected.greedy);

const two = await client.chat.completions.create({ ...chat, seed: 7, n: 2 });
assert.deepEqual(two.choices.map((c) => c.message.content), expected.seeds);

const completion = await client.completions.create({
  model: name, prompt: "The capital of France is", max_tokens: 8, temperature: 0,
});
assert.equal(completion.choices[0].text, expected.completion);
assert.deepEqual((await client.models.list()).data.map((m) => m.id), [name]);
await assert.rejects(client.chat.completions.create({ ...chat, temperature: -1 }), OpenAI.BadRequestError);
await assert.rejects(client.models.retrieve("other"), OpenAI.NotFoundError);

const left = await client.chat.completions.create({ ...chat, max_tokens: 2000, stream: true });
for await (const _ of left) break;
assert.equal((await client.chat.completions.create({ ...chat, temperature: 0 })).choices[0].message.content, expected.greedy);
