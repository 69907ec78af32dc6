// Conversations as files: JSON to take them elsewhere, Markdown to read them.

import { freshId, h } from "./dom.js";
import { ROLES, STATES, settle, shownPath } from "./conversation.js";

const FORMAT = "satchel-conversations";

/** A file was not what it should be; the message says why. */
export class ImportError extends Error {}

export function asJson(conversations) {
  return JSON.stringify({ format: FORMAT, version: 1, conversations }, null, 1);
}

export function asMarkdown(conversation, name) {
  const parts = [`# ${conversation.title}`];
  for (const node of shownPath(conversation)) {
    const who = { user: "You", assistant: name, tool: "Tool result" }[node.role];
    const calls = (node.calls ?? []).map((call) => `\`\`\`json\n${call.name}(${call.arguments})\n\`\`\``);
    parts.push(`## ${who}`, ...(node.content ? [node.content.trim()] : []), ...calls);
  }
  return `${parts.join("\n\n")}\n`;
}

export function download(name, text, type) {
  const url = URL.createObjectURL(new Blob([text], { type }));
  const link = h("a", { href: url, download: name.replace(/[\\/:*?"<>|\u0000-\u001f]+/g, " ").trim() || "conversation" });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(url), 10000);
}

/** The conversations in an exported file, each with a name of its own. Throws ImportError. */
export function readExport(text) {
  let document;
  try {
    document = JSON.parse(text);
  } catch {
    throw new ImportError("it is not JSON");
  }
  if (document?.format !== FORMAT || !Array.isArray(document.conversations)) {
    throw new ImportError("it was not exported here");
  }
  if (document.version !== 1) throw new ImportError(`it is of version ${document.version}, which this page does not know`);
  return document.conversations.map(checked);
}

const text = (value) => (typeof value === "string" ? value : "");
const time = (value) => (Number.isFinite(value) && value > 0 ? value : Date.now());

// Only what is known is taken over, and only if it hangs together.
function checked(given, number) {
  const wrong = (why) => new ImportError(`conversation ${number + 1} ${why}`);
  if (typeof given?.nodes !== "object" || !given.nodes) throw wrong("has no messages");
  const nodes = Object.create(null);
  for (const [id, node] of Object.entries(given.nodes)) {
    if (!/^[\w-]{1,64}$/.test(id) || !ROLES.includes(node?.role)) throw wrong("holds a message of an unknown kind");
    nodes[id] = {
      id,
      parent: text(node.parent),
      role: node.role,
      content: text(node.content),
      created: time(node.created),
    };
    if (node.reasoning) nodes[id].reasoning = text(node.reasoning);
    if (node.role === "tool") nodes[id].callId = text(node.callId);
    if (STATES.includes(node.state)) nodes[id].state = node.state;
    if (node.model) nodes[id].model = text(node.model);
    if (Array.isArray(node.calls)) {
      nodes[id].calls = node.calls.map((call) => ({ id: text(call?.id), name: text(call?.name), arguments: text(call?.arguments) }));
    }
  }
  const chosen = {};
  for (const node of Object.values(nodes)) {
    const seen = new Set();
    for (let at = node; at; at = nodes[at.parent]) {
      if (seen.has(at.id)) throw wrong("goes round in a circle");
      seen.add(at.id);
      if (at.parent && !nodes[at.parent]) throw wrong("misses a message");
    }
    chosen[node.parent] ??= node.id;
    if (text(given.chosen?.[node.parent]) === node.id) chosen[node.parent] = node.id;
  }
  return settle({
    id: freshId(),
    title: text(given.title).slice(0, 200) || "Imported conversation",
    named: Boolean(given.named),
    created: time(given.created),
    updated: time(given.updated),
    nodes: { ...nodes },
    chosen,
  });
}
