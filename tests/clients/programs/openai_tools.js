// openai for node: schemas, tools in rounds, log probabilities, responses, whole and in streams.
import assert from "node:assert/strict";
import OpenAI from "openai";

const [url, name, json] = process.argv.slice(2);
const expected = JSON.parse(json);
const client = new OpenAI({ baseURL: url, apiKey: "none", maxRetries: 0 });
const messages = [{ role: "user", content: "How is the weather in Paris? It is 20 degrees." }];
const chat = { model: name, messages, max_tokens: 200, temperature: 0 };
const schema = {
  type: "object",
  properties: { city: { type: "string", maxLength: 20 } },
  required: ["city"],
  additionalProperties: false,
};
const weather = { name: "weather", description: "The weather of a city.", parameters: schema, strict: true };

// ---- chat completions ----
const response_format = { type: "json_schema", json_schema: { name: "weather", strict: true, schema } };
const parsed = await client.chat.completions.parse({ ...chat, response_format });
assert.deepEqual(Object.keys(parsed.choices[0].message.parsed), ["city"]);

const tools = [{ type: "function", function: weather }];
for (const tool_choice of ["required", { type: "function", function: { name: "weather" } }]) {
  const ask = { ...chat, tools, tool_choice, parallel_tool_calls: false };
  const [choice] = (await client.chat.completions.create(ask)).choices;
  assert.equal(choice.finish_reason, "tool_calls");
  const [call] = choice.message.tool_calls;
  assert.deepEqual(Object.keys(JSON.parse(call.function.arguments)), ["city"]);
  const streamed = await client.chat.completions.stream(ask).finalChatCompletion();
  assert.equal(streamed.choices[0].message.tool_calls[0].function.arguments, call.function.arguments);
  const said = [...messages, choice.message, { role: "tool", tool_call_id: call.id, content: "It rains." }];
  const last = await client.chat.completions.create({ ...chat, messages: said, tools, tool_choice: "none" });
  assert.ok(last.choices[0].message.content && !last.choices[0].message.tool_calls);
}
const asked = [];
const run = { type: "function", function: { ...weather, parse: JSON.parse, function: ({ city }) => { asked.push(city); return "It rains."; } } };
const runner = client.chat.completions.runTools({
  ...chat, tools: [run], tool_choice: { type: "function", function: { name: "weather" } }, parallel_tool_calls: false,
});
await runner.done();
assert.equal(asked.length, 1);

const colours = { model: name, messages: [{ role: "user", content: "Name three colours." }], max_tokens: 24, temperature: 0 };
const scored = await client.chat.completions.create({ ...colours, logprobs: true, top_logprobs: 2 });
const tokens = scored.choices[0].logprobs.content;
assert.ok(tokens.every((one) => one.top_logprobs.length === 2 && one.logprob <= 0));
assert.equal(Buffer.from(tokens.flatMap((one) => one.bytes)).toString(), expected.greedy);

// ---- responses ----
const input = { model: name, input: "Name three colours.", max_output_tokens: 24, temperature: 0 };
const whole = await client.responses.create(input);
assert.equal(whole.output_text, expected.greedy);
let text = "";
for await (const event of await client.responses.create({ ...input, stream: true }))
  if (event.type === "response.output_text.delta") text += event.delta;
assert.equal(text, expected.greedy);
const format = { type: "json_schema", name: "weather", strict: true, schema };
const made = await client.responses.parse({ ...input, input: messages, max_output_tokens: 200, text: { format } });
assert.deepEqual(Object.keys(made.output_parsed), ["city"]);
const calling = {
  ...input, input: messages, max_output_tokens: 200, tools: [{ type: "function", ...weather }], tool_choice: "required",
  parallel_tool_calls: false,
};
const called = await client.responses.create(calling);
const [item] = called.output.filter((one) => one.type === "function_call");
assert.deepEqual(Object.keys(JSON.parse(item.arguments)), ["city"]);
const final = await client.responses.stream(calling).finalResponse();
assert.equal(final.output.find((one) => one.type === "function_call").arguments, item.arguments);
const round = [...messages, ...called.output, { type: "function_call_output", call_id: item.call_id, output: "It rains." }];
assert.ok((await client.responses.create({ ...calling, input: round, tool_choice: "none" })).output_text);
