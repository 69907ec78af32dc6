// Getting answers: from a message in a conversation to a request, and back piece by piece.

import { ConnectionLost, ServerError, chat, health } from "./server.js";
import { asMessages, grow, pathTo } from "./conversation.js";

const SAVE_EVERY = 1000; // milliseconds
const ASK_AGAIN = 1000;
const BUSY_TRIES = 30;
const LEAVING = 200; // milliseconds

const running = new Map(); // of conversations, by their names, to what stops and what saves their answer

export const isAnswering = (conversation) => running.has(conversation.id);
/** The message that is being written in it; undefined where none is. */
export const answerIn = (conversation) => running.get(conversation.id)?.node;
export const stopAnswer = (conversation) => running.get(conversation.id)?.control.abort();

/** Keep what has been written so far: the page is being left. */
export const saveAnswers = () => running.forEach(({ save }) => save());

/** Have the model answer below `parent`, and tell `on` of it: change(node), save(), end(node).
 * `wishes` are the request's fields beside its messages: {model, system, ...}. */
export async function answer(conversation, parent, wishes, on) {
  const control = new AbortController();
  const node = grow(conversation, parent.id, "assistant", { state: "writing", model: wishes.model });
  running.set(conversation.id, { control, node, save: on.save });
  on.change(node);
  on.save();
  const saving = setInterval(on.save, SAVE_EVERY);
  try {
    await write(node, messagesFor(conversation, parent, wishes), wishes, control.signal, on);
    node.state = "done";
  } catch (error) {
    // A page that is left loses its connection as well, and is gone before this is over: its answer
    // stays one that was being written, and has not failed.
    if (error instanceof ConnectionLost) await pause(LEAVING, control.signal).catch(() => {});
    if (error.name === "AbortError") node.state = "stopped";
    else {
      node.state = "failed";
      node.error = error.message;
      node.code = error instanceof ConnectionLost ? "lost" : error.code;
      if (!(error instanceof ServerError || error instanceof ConnectionLost)) console.error(error);
    }
  } finally {
    clearInterval(saving);
    delete node.waiting;
    running.delete(conversation.id);
    conversation.updated = Date.now();
    on.save();
    on.change(node);
    on.end(node);
  }
}

function messagesFor(conversation, parent, { system }) {
  const messages = asMessages(pathTo(conversation, parent));
  return system === null ? messages : [{ role: "system", content: system }, ...messages];
}

async function write(node, messages, wishes, signal, on) {
  const { system, ...fields } = wishes;
  const body = { ...fields, messages, stream: true, stream_options: { include_usage: true } };
  for (let tries = 0; ; tries += 1) {
    try {
      return await once(node, body, signal, on);
    } catch (error) {
      const begun = node.content || node.reasoning || node.calls;
      if (begun || !(error instanceof ServerError)) throw error;
      if (error.code === "context_length_exceeded" && leaveOutOldest(body, node)) continue;
      if (error.status !== 503 || tries >= BUSY_TRIES || !(await waitFor(error, node, signal, on))) throw error;
    }
  }
}

// What does not fit any more goes, oldest first; the system prompt and the newest stay.
function leaveOutOldest(body, node) {
  const start = body.messages[0].role === "system" ? 1 : 0;
  const next = body.messages.findIndex((message, at) => at > start && message.role === "user");
  if (next < 0) return false;
  body.messages = [...body.messages.slice(0, start), ...body.messages.slice(next)];
  node.leftOut = (node.leftOut ?? 0) + next - start;
  return true;
}

// Whether it is worth asking again: the model is loading, or others are before us.
async function waitFor(error, node, signal, on) {
  if (error.code === "busy") {
    node.waiting = "Others are being answered. Waiting for a place …";
    on.change(node);
    await pause((error.retryAfter || 1) * 1000, signal);
    return true;
  }
  let found = await health();
  if (found.status !== "loading") return false;
  while (found.status === "loading") {
    node.waiting = "Waiting until the model is loaded …";
    on.change(node);
    await pause(ASK_AGAIN, signal);
    found = await health();
  }
  return found.status === "ok";
}

function pause(milliseconds, signal) {
  return new Promise((resolve, reject) => {
    if (signal.aborted) {
      reject(new DOMException("stopped", "AbortError"));
      return;
    }
    const stop = () => {
      clearTimeout(timer);
      reject(new DOMException("stopped", "AbortError"));
    };
    const timer = setTimeout(() => {
      signal.removeEventListener("abort", stop);
      resolve();
    }, milliseconds);
    signal.addEventListener("abort", stop, { once: true });
  });
}

async function once(node, body, signal, on) {
  const start = performance.now();
  let first = 0;
  for await (const chunk of chat(body, signal)) {
    delete node.waiting;
    const [choice] = chunk.choices;
    if (choice) {
      const news = choice.delta ?? {};
      if (news.content || news.reasoning_content || news.tool_calls) first ||= performance.now();
      if (news.reasoning_content) node.reasoning = (node.reasoning ?? "") + news.reasoning_content;
      if (news.content) {
        if (node.reasoning && !node.thought) node.thought = performance.now() - start;
        node.content += news.content;
      }
      for (const piece of news.tool_calls ?? []) addCall(node, piece);
      if (choice.finish_reason) node.reason = choice.finish_reason;
    }
    if (chunk.usage) {
      node.usage = {
        prompt: chunk.usage.prompt_tokens,
        cached: chunk.usage.prompt_tokens_details?.cached_tokens ?? 0,
        tokens: chunk.usage.completion_tokens,
        first: (first || performance.now()) - start,
        writing: performance.now() - (first || start),
      };
    }
    on.change(node);
  }
}

function addCall(node, piece) {
  node.calls ??= [];
  const call = (node.calls[piece.index] ??= { id: "", name: "", arguments: "" });
  call.id ||= piece.id ?? "";
  call.name ||= piece.function?.name ?? "";
  call.arguments += piece.function?.arguments ?? "";
}
