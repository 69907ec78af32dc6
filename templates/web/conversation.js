// A conversation is a tree: editing a message or asking again grows a branch beside the old one.
//
//   {id, title, named, created, updated, nodes: {id: node}, chosen: {parent: child}}
//   node: {id, parent, role, content, created, ...}; the parent of the first ones is ""
//
// `chosen` says for each parent which of its children is shown.

import { freshId } from "./dom.js";

const TITLE = 60;
export const ROLES = ["user", "assistant", "tool"];
export const STATES = ["done", "writing", "stopped", "failed"];

export function newConversation() {
  const now = Date.now();
  return { id: freshId(), title: "", named: false, created: now, updated: now, nodes: {}, chosen: {} };
}

/** Add a message below `parent` ("" for the first) and show it. */
export function grow(conversation, parent, role, fields = {}) {
  const node = { id: freshId(), parent, role, content: "", created: Date.now(), ...fields };
  conversation.nodes[node.id] = node;
  conversation.chosen[parent] = node.id;
  conversation.updated = node.created;
  if (!conversation.title && role === "user") conversation.title = titleOf(node.content);
  return node;
}

function titleOf(text) {
  const line = text.trim().replace(/\s+/g, " ");
  return line.length <= TITLE ? line : `${Array.from(line).slice(0, TITLE - 1).join("").trimEnd()}…`;
}

/** The messages that are shown, first to last. */
export function shownPath(conversation) {
  const path = [];
  let node = conversation.nodes[conversation.chosen[""]];
  while (node) {
    path.push(node);
    node = conversation.nodes[conversation.chosen[node.id]];
  }
  return path;
}

/** The messages from the first to `node`. */
export function pathTo(conversation, node) {
  const path = [];
  for (let at = node; at; at = conversation.nodes[at.parent]) path.unshift(at);
  return path;
}

/** `node` and those beside it, oldest first. */
export function siblings(conversation, node) {
  return Object.values(conversation.nodes)
    .filter((other) => other.parent === node.parent)
    .sort((one, other) => one.created - other.created || (one.id < other.id ? -1 : 1));
}

export function choose(conversation, node) {
  conversation.chosen[node.parent] = node.id;
}

/** Messages as the server takes them. Answers without a word are left out. */
export function asMessages(path) {
  return path.flatMap((node) => {
    if (node.role === "tool") return [{ role: "tool", tool_call_id: node.callId, content: node.content }];
    if (node.role === "user") return [{ role: "user", content: node.content }];
    if (!node.content && !node.calls?.length) return [];
    const message = { role: "assistant", content: node.content };
    if (node.calls?.length) {
      message.tool_calls = node.calls.map((call) => ({
        id: call.id,
        type: "function",
        function: { name: call.name, arguments: call.arguments },
      }));
    }
    return [message];
  });
}

/** What of `conversation` matches `words`, all of them: true or false. */
export function matches(conversation, words) {
  if (!words.length) return true;
  const texts = [conversation.title, ...Object.values(conversation.nodes).map((node) => node.content)];
  const all = texts.join("\n").toLocaleLowerCase();
  return words.every((word) => all.includes(word));
}

/** Take into `mine` what another tab has kept of it; `here` is the message that this one is writing.
 * Messages are added and grow, and never go, so nothing of either is lost. Returns whether `theirs`
 * lacks something. */
export function merge(mine, theirs, here) {
  let lacks = Object.keys(mine.nodes).some((id) => !theirs.nodes[id]);
  for (const [id, node] of Object.entries(theirs.nodes)) {
    const own = mine.nodes[id];
    if (!own) mine.nodes[id] = node;
    else if (own === here) continue;
    else if (size(node) < size(own)) lacks = true;
    else if (size(node) > size(own) || own.state === "writing") {
      delete own.waiting;
      Object.assign(own, node);
    }
  }
  mine.chosen = { ...theirs.chosen, ...mine.chosen };
  mine.updated = Math.max(mine.updated, theirs.updated);
  const [ours, other] = [mine.renamed ?? 0, theirs.renamed ?? 0];
  if (other > ours) Object.assign(mine, { title: theirs.title, named: theirs.named, renamed: other });
  return lacks || other < ours;
}

// How far a message is: by what it says, and then by whether it is complete.
function size(node) {
  const length = node.content.length + (node.reasoning ?? "").length + JSON.stringify(node.calls ?? "").length;
  return length + (node.state === "writing" ? 0 : 0.5);
}

export const isBeingWritten = (conversation) => Object.values(conversation.nodes).some((node) => node.state === "writing");

/** Mark answers that were being written when the page was closed. */
export function settle(conversation) {
  for (const node of Object.values(conversation.nodes)) if (node.state === "writing") node.state = "stopped";
  return conversation;
}
