import OpenAI from "openai";
import {
  address, askPerson, askStory, askWeather, failure, key, messages, person, user, weather,
} from "./shared.mjs";

const client = new OpenAI({ baseURL: `${address}/v1`, apiKey: key, maxRetries: 0 });
const base = { model: "default", temperature: 0 };

async function plain() {
  const reply = await client.chat.completions.create({ ...base, messages });
  const [choice] = reply.choices;
  return { text: choice.message.content, reason: choice.finish_reason, usage: reply.usage };
}

async function streamed() {
  const stream = await client.chat.completions.create({
    ...base, messages, stream: true, stream_options: { include_usage: true },
  });
  let [text, chunks, usage] = ["", 0, null];
  for await (const chunk of stream) {
    chunks += 1;
    text += chunk.choices[0]?.delta?.content ?? "";
    usage = chunk.usage ?? usage;
  }
  return { text, chunks, usage };
}

// The client's own helper, which puts a stream together again.
async function helper() {
  const runner = client.chat.completions.stream({ ...base, messages });
  const reply = await runner.finalChatCompletion();
  return { text: reply.choices[0].message.content, reason: reply.choices[0].finish_reason };
}

async function tools() {
  const reply = await client.chat.completions.create({
    ...base,
    messages: [askWeather],
    max_tokens: 80,
    tools: [{ type: "function", function: weather }],
    tool_choice: { type: "function", function: { name: weather.name } },
    parallel_tool_calls: false,
  });
  const calls = reply.choices[0].message.tool_calls;
  return calls.map((call) => ({ name: call.function.name, arguments: call.function.arguments }));
}

async function schema() {
  const reply = await client.chat.completions.create({
    ...base,
    messages: [askPerson],
    max_tokens: 80,
    response_format: {
      type: "json_schema", json_schema: { name: "person", schema: person, strict: true },
    },
  });
  return { text: reply.choices[0].message.content };
}

async function responses() {
  const stream = await client.responses.create({
    ...base, instructions: messages[0].content, input: user.content, stream: true,
  });
  const kinds = [];
  let text = "";
  for await (const event of stream) {
    kinds.push(event.type);
    if (event.type === "response.output_text.delta") text += event.delta;
  }
  return { kinds, text };
}

async function embeddings() {
  // The client asks for base64 and decodes it, unless told otherwise.
  const packed = await client.embeddings.create({ model: "default", input: ["a dog", "a cat"] });
  const plainly = await client.embeddings.create({
    model: "default", input: ["a dog", "a cat"], encoding_format: "float",
  });
  const apart = packed.data.map((item, row) =>
    Math.max(...item.embedding.map((x, i) => Math.abs(x - plainly.data[row].embedding[i]))));
  return { sizes: packed.data.map((item) => item.embedding.length), apart };
}

async function errors() {
  const ask = (fields) => client.chat.completions.create({ ...base, messages, ...fields });
  const stranger = new OpenAI({ baseURL: `${address}/v1`, apiKey: "wrong", maxRetries: 0 });
  return {
    model: await failure(ask({ model: "gpt-x" })),
    value: await failure(ask({ temperature: 99 })),
    length: await failure(ask({ messages: [{ role: "user", content: "word ".repeat(9000) }] })),
    streamed: await failure(ask({ stream: true, top_p: "high" })),
    key: await failure(stranger.models.list()),
  };
}

async function cancellation() {
  const stop = new AbortController();
  const fields = { ...base, temperature: 1.5, messages: [askStory], max_tokens: 2000 };
  const stream = await client.chat.completions.create(
    { ...fields, stream: true }, { signal: stop.signal });
  let pieces = 0;
  for await (const chunk of stream) {
    pieces += chunk.choices.length;
    if (pieces === 3) stop.abort();
  }
  // And an answer that is not streamed.
  const whole = client.chat.completions.create(fields, { signal: AbortSignal.timeout(500) });
  return { pieces, whole: await failure(whole) };
}

export const scenarios = {
  plain, streamed, helper, tools, schema, responses, embeddings, errors, cancellation,
};
