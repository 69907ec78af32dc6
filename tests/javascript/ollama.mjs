import { Ollama } from "ollama";
import {
  address, askPerson, askStory, askWeather, failure, key, messages, person, question, weather,
} from "./shared.mjs";

const headers = { Authorization: `Bearer ${key}` };
const client = new Ollama({ host: address, headers });
const base = { model: "SmolLM2", options: { temperature: 0 } };

async function plain() {
  const reply = await client.chat({ ...base, messages });
  const generated = await client.generate({
    ...base, prompt: question, system: messages[0].content,
  });
  return { text: reply.message.content, reason: reply.done_reason, generated: generated.response };
}

async function streamed() {
  let [text, chunks, done] = ["", 0, null];
  for await (const part of await client.chat({ ...base, messages, stream: true })) {
    chunks += 1;
    text += part.message.content;
    done = part.done ? part : done;
  }
  return { text, chunks, tokens: done.eval_count };
}

// Ollama's interface has no way to force a call: that the tools are taken, and the answer is
// either a call or a text, is all there is to it.
async function tools() {
  const reply = await client.chat({
    ...base,
    messages: [askWeather],
    options: { temperature: 0, num_predict: 60 },
    tools: [{ type: "function", function: weather }],
  });
  return { text: reply.message.content, calls: reply.message.tool_calls ?? [] };
}

async function schema() {
  const reply = await client.chat({
    ...base, messages: [askPerson], format: person, options: { temperature: 0, num_predict: 80 },
  });
  return { text: reply.message.content };
}

async function embeddings() {
  const reply = await client.embed({ model: "SmolLM2", input: ["a dog", "a cat"] });
  return { sizes: reply.embeddings.map((vector) => vector.length) };
}

async function lists() {
  const { models } = await client.list();
  const shown = await client.show({ model: "SmolLM2" });
  return { models: models.map((model) => model.model), family: shown.details.family };
}

async function errors() {
  const stranger = new Ollama({ host: address });
  return {
    model: await failure(client.chat({ ...base, model: "llama3", messages })),
    value: await failure(client.chat({ ...base, messages, options: { temperature: "hot" } })),
    pull: await failure(client.pull({ model: "llama3" })),
    key: await failure(stranger.list()),
  };
}

async function cancellation() {
  const fields = { ...base, messages: [askStory], options: { temperature: 1.5 } };
  let pieces = 0;
  const stream = await client.chat({ ...fields, stream: true });
  const broken = await failure((async () => {
    for await (const _ of stream) {
      pieces += 1;
      if (pieces === 3) stream.abort();
    }
  })());
  return { pieces, broken };
}

export const scenarios = {
  plain, streamed, tools, schema, embeddings, lists, errors, cancellation,
};
