// Vercel's ai with @ai-sdk/openai-compatible: reasoning, whole and in a stream.
import assert from "node:assert/strict";
import { generateText, streamText } from "ai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";

const [url, name, json] = process.argv.slice(2);
const expected = JSON.parse(json);
const model = createOpenAICompatible({ name: "pellucid", baseURL: url, apiKey: "none" })(name);
const ask = { model, prompt: "Name three colours.", temperature: 0, maxOutputTokens: 30, maxRetries: 0 };
ask.providerOptions = { pellucid: { thinking_budget: 6 } };

const done = await generateText(ask);
assert.equal(done.reasoningText, expected.reasoning);
assert.equal(done.text, expected.text);
const said = { "reasoning-delta": "", "text-delta": "" };
for await (const part of streamText(ask).fullStream) {
  if (part.type === "error") throw part.error;
  if (part.type in said) said[part.type] += part.text;
}
assert.deepEqual(said, { "reasoning-delta": expected.reasoning, "text-delta": expected.text });
