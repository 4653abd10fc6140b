// Vercel's ai with @ai-sdk/openai-compatible: texts, streams, objects, tools.
import assert from "node:assert/strict";
import { generateObject, generateText, jsonSchema, stepCountIs, streamText, tool } from "ai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";

const [url, name, json] = process.argv.slice(2);
const expected = JSON.parse(json);
const provider = createOpenAICompatible({
  name: "pellucid", baseURL: url, apiKey: "none", supportsStructuredOutputs: true, includeUsage: true,
});
const model = provider(name);
const ask = { model, prompt: "Name three colours.", temperature: 0, maxOutputTokens: 24, maxRetries: 0 };

assert.equal((await generateText(ask)).text, expected.greedy);
const streamed = streamText(ask);
let text = "";
for await (const part of streamed.textStream) text += part;
assert.equal(text, expected.greedy);
assert.ok((await streamed.usage).outputTokens > 0);

const schema = jsonSchema({
  type: "object",
  properties: { city: { type: "string", maxLength: 20 }, degrees: { type: "integer" } },
  required: ["city", "degrees"],
  additionalProperties: false,
});
const { object } = await generateObject({
  ...ask, prompt: "It is 20 degrees in Paris.", maxOutputTokens: 200, schema,
});
assert.deepEqual(Object.keys(object).sort(), ["city", "degrees"]);
assert.ok(Number.isInteger(object.degrees));

let called = 0;
const weather = tool({
  description: "The weather of a city.",
  inputSchema: jsonSchema({
    type: "object", properties: { city: { type: "string", maxLength: 20 } }, required: ["city"], additionalProperties: false,
  }),
  execute: async ({ city }) => { called += 1; return `It rains in ${city}.`; },
});
const steps = { ...ask, prompt: "How is the weather in Paris?", maxOutputTokens: 200, tools: { weather } };
const done = await generateText({ ...steps, toolChoice: "required", stopWhen: stepCountIs(1) });
assert.ok(called > 0 && done.toolCalls.every((call) => call.toolName === "weather"));
const running = streamText({ ...steps, toolChoice: "required", stopWhen: stepCountIs(1) });
for await (const part of running.fullStream) if (part.type === "error") throw part.error;
assert.deepEqual((await running.toolCalls).map((call) => call.input), done.toolCalls.map((call) => call.input));
