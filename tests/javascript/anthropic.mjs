import Anthropic from "@anthropic-ai/sdk";
import {
  address, askPerson, askStory, askWeather, failure, key, person, system, user, weather,
} from "./shared.mjs";

const client = new Anthropic({ baseURL: address, apiKey: key, maxRetries: 0 });
const base = { model: "default", max_tokens: 40, temperature: 0 };
const asked = { ...base, system, messages: [user] };

async function plain() {
  const reply = await client.messages.create(asked);
  const counted = await client.messages.countTokens({ model: "default", system, messages: [user] });
  const { input_tokens, cache_read_input_tokens } = reply.usage;
  return {
    text: reply.content[0].text,
    reason: reply.stop_reason,
    counted: counted.input_tokens,
    read: input_tokens + (cache_read_input_tokens ?? 0),
  };
}

async function streamed() {
  const kinds = [];
  let text = "";
  for await (const event of await client.messages.create({ ...asked, stream: true })) {
    kinds.push(event.type);
    if (event.type === "content_block_delta") text += event.delta.text;
  }
  return { text, kinds };
}

// The client's own helper, which puts a stream together again.
async function helper() {
  const reply = await client.messages.stream(asked).finalMessage();
  return { text: reply.content[0].text, reason: reply.stop_reason };
}

const tool = {
  name: weather.name, description: weather.description, input_schema: weather.parameters,
};

async function tools() {
  const fields = {
    ...base,
    max_tokens: 80,
    messages: [askWeather],
    tools: [tool],
    tool_choice: { type: "tool", name: tool.name, disable_parallel_tool_use: true },
  };
  const reply = await client.messages.create(fields);
  const again = await client.messages.stream(fields).finalMessage();
  return { blocks: reply.content, streamed: again.content, reason: reply.stop_reason };
}

async function schema() {
  const reply = await client.messages.create({
    ...base,
    max_tokens: 80,
    messages: [askPerson],
    output_config: { format: { type: "json_schema", schema: person } },
  });
  return { text: reply.content[0].text };
}

async function stop() {
  const reply = await client.messages.create({ ...asked, stop_sequences: ["Paris", "Lyon"] });
  return { text: reply.content[0]?.text ?? "", reason: reply.stop_reason, which: reply.stop_sequence };
}

async function errors() {
  const stranger = new Anthropic({ baseURL: address, apiKey: "wrong", maxRetries: 0 });
  return {
    model: await failure(client.messages.create({ ...asked, model: "claude" })),
    value: await failure(client.messages.create({ ...asked, max_tokens: -1 })),
    streamed: await failure(client.messages.create({ ...asked, top_p: "high", stream: true })),
    key: await failure(stranger.messages.create(asked)),
  };
}

async function cancellation() {
  const abort = new AbortController();
  const fields = { ...base, temperature: 1, max_tokens: 2000, messages: [askStory] };
  const stream = await client.messages.create(
    { ...fields, stream: true }, { signal: abort.signal });
  let pieces = 0;
  for await (const event of stream) {
    pieces += event.type === "content_block_delta";
    if (pieces === 3) abort.abort();
  }
  return { pieces };
}

export const scenarios = { plain, streamed, helper, tools, schema, stop, errors, cancellation };
