// The messages of a conversation, on screen.

import { $, copyButton, h, icon, iconButton } from "./dom.js";
import { shownPath, siblings } from "./conversation.js";
import { showMarkdown } from "./markdown.js";

const NEAR = 80; // pixels from the end that still count as being there
const REDRAW = 50; // milliseconds between two looks at an answer that is being written

const scroller = $("scroller");
const list = $("thread");
const latest = $("latest");
let views = new Map(); // of what is shown, by the messages' names
let follow = true;
let lastTop = 0;
let actions = null;
let assistant = "Assistant";
let several = false; // models: then it is worth saying which one answered

/** `on` has what a person can do: edit(node, text), retry(node), turn(node), result(node, texts). */
export function setUpThread(name, on) {
  assistant = name;
  actions = on;
  scroller.addEventListener("scroll", () => {
    // Only going up is leaving the end: it also moves away by itself, when the answer grows.
    const near = scroller.scrollHeight - scroller.scrollTop - scroller.clientHeight < NEAR;
    if (near) follow = true;
    else if (scroller.scrollTop < lastTop) follow = false;
    lastTop = scroller.scrollTop;
    latest.hidden = follow;
  }, { passive: true });
  latest.addEventListener("click", () => {
    toEnd();
    $("message").focus();
  });
  new ResizeObserver(() => follow && toEnd()).observe(list);
}

export function nameModels(there) {
  several = there;
}

export function toEnd() {
  follow = true;
  latest.hidden = true;
  scroller.scrollTop = scroller.scrollHeight;
}

/** Show `conversation`; null shows nothing. */
export function showThread(conversation) {
  const path = conversation ? shownPath(conversation) : [];
  const kept = new Map();
  path.forEach((node, at) => {
    let view = views.get(node.id);
    if (!view || view.node !== node) view = node.role === "assistant" ? new Answer(node) : new Message(node);
    kept.set(node.id, view);
    if (list.children[at] !== view.element) list.insertBefore(view.element, list.children[at] ?? null);
    view.update(conversation, at === path.length - 1);
  });
  while (list.children.length > path.length) list.lastElementChild.remove();
  views = kept;
}

/** An answer has grown or ended. */
export function showChange(node) {
  views.get(node.id)?.changed();
}

/** Edit the newest message of the person; false when there is none. */
export function editLast() {
  const mine = [...views.values()].filter((view) => view.node.role === "user");
  mine.at(-1)?.edit();
  return mine.length > 0;
}

class View {
  constructor(node) {
    this.node = node;
    this.turning = h("span", { class: "turning", role: "group", "aria-label": "Versions", hidden: true });
    this.element = null;
  }

  update(conversation, last) {
    this.conversation = conversation;
    this.element.classList.toggle("last", last);
    const versions = siblings(conversation, this.node);
    const at = versions.indexOf(this.node);
    this.turning.hidden = versions.length < 2;
    if (versions.length < 2) return;
    const key = `${at}/${versions.length}`;
    if (this.turning.dataset.key === key) return;
    this.turning.dataset.key = key;
    const step = (picture, label, to) =>
      iconButton(picture, label, () => actions.turn(versions[to], label), { disabled: to < 0 || to >= versions.length });
    this.turning.replaceChildren(
      step("prev", "Previous version", at - 1),
      h("span", { text: `${at + 1}/${versions.length}`, "aria-label": `Version ${at + 1} of ${versions.length}` }),
      step("next", "Next version", at + 1),
    );
  }

  changed() {}
}

class Message extends View {
  constructor(node) {
    super(node);
    this.body = h("div", { class: "bubble", dir: "auto", text: node.content });
    const mine = node.role === "user";
    this.bar = h(
      "div",
      { class: "bar" },
      this.turning,
      mine ? iconButton("edit", "Edit message", () => this.edit()) : null,
      copyButton("Copy message", () => node.content),
    );
    const title = mine ? "You" : "Result of a tool";
    this.article = h("article", { "aria-label": title }, mine ? null : h("p", { class: "who", text: title }), this.body, this.bar);
    this.element = h("li", { class: `message ${node.role}`, "data-node": node.id }, this.article);
  }

  edit() {
    if (this.element.querySelector("form")) return;
    const area = h("textarea", { dir: "auto", "aria-label": "Edit message", rows: "2" });
    area.value = this.node.content;
    const leave = () => {
      form.replaceWith(this.body);
      this.bar.hidden = false;
      this.bar.querySelector("[aria-label='Edit message']").focus();
    };
    const form = h(
      "form",
      {
        class: "edit",
        onsubmit: (event) => {
          event.preventDefault();
          if (!area.value.trim() || !actions.edit(this.node, area.value)) return;
          form.replaceWith(this.body);
          this.bar.hidden = false;
        },
        onkeydown: (event) => {
          if (event.key === "Escape") leave();
          else if (event.key === "Enter" && !event.shiftKey && !event.isComposing) form.requestSubmit();
          else return;
          event.preventDefault();
          event.stopPropagation();
        },
      },
      area,
      h("p", { text: "The old version stays: switch between both below the message." }),
      h("div", { class: "buttons" }, h("button", { type: "button", text: "Cancel", onclick: leave }), h("button", { class: "primary", text: "Send" })),
    );
    this.body.replaceWith(form);
    this.bar.hidden = true;
    area.focus();
    area.setSelectionRange(area.value.length, area.value.length);
  }
}

class Answer extends View {
  constructor(node) {
    super(node);
    this.drawn = -1;
    this.waiting = h("p", { class: "waiting" });
    this.text = h("div", { class: "prose" });
    this.thought = h("div", { class: "prose" });
    this.summary = h("summary", {});
    this.reasoning = h("details", { class: "reasoning", hidden: true }, this.summary, this.thought);
    this.reasoning.addEventListener("toggle", () => this.draw());
    this.calls = h("div", { class: "calls" });
    this.note = h("div", { class: "note", hidden: true });
    this.facts = h("span", { class: "facts" });
    this.bar = h(
      "div",
      { class: "bar" },
      this.turning,
      copyButton("Copy answer", () => this.node.content),
      iconButton("retry", "Answer again", () => actions.retry(this.node)),
      this.facts,
    );
    this.element = h(
      "li",
      { class: "message assistant", "data-node": node.id },
      h("img", { src: "web/icon", alt: "", width: "26", height: "26", class: "avatar" }),
      h("article", { "aria-label": assistant }, this.reasoning, this.waiting, this.text, this.calls, this.note, this.bar),
    );
  }

  update(conversation, last) {
    super.update(conversation, last);
    this.draw();
  }

  // Draws at once, then no more often than eyes can follow.
  changed() {
    if (this.node.state !== "writing") {
      clearTimeout(this.timer);
      this.timer = null;
      this.draw();
      return;
    }
    this.timer ??= setTimeout(() => {
      this.timer = null;
      this.draw();
    }, REDRAW);
  }

  draw() {
    const { node } = this;
    const writing = node.state === "writing";
    this.element.classList.toggle("writing", writing);
    this.element.querySelector("article").setAttribute("aria-busy", String(writing));
    this.drawReasoning(writing);
    this.waiting.hidden = !writing || Boolean(node.content || node.reasoning || node.calls);
    this.waiting.textContent = node.waiting ?? "Reading …";
    this.text.hidden = !node.content;
    if (node.content) showMarkdown(this.text, node.content, writing);
    this.drawCalls(writing);
    this.drawNote();
    this.bar.hidden = writing;
    this.facts.replaceChildren(...(writing ? [] : factsOf(node)));
    this.facts.title = node.usage ? `${node.usage.prompt} tokens read, ${node.usage.cached} of them known before` : "";
  }

  drawReasoning(writing) {
    const { node } = this;
    this.reasoning.hidden = !node.reasoning;
    if (!node.reasoning) return;
    const thinking = writing && !node.content;
    const seconds = Math.round((node.thought ?? 0) / 1000);
    this.summary.textContent = thinking ? "Thinking …" : seconds ? `Thought for ${seconds} s` : "Thought for a moment";
    if (this.reasoning.open) showMarkdown(this.thought, node.reasoning, writing);
  }

  drawCalls(writing) {
    const { node } = this;
    const key = JSON.stringify([node.calls, writing, this.element.classList.contains("last")]);
    if (!node.calls || this.calls.dataset.key === key) return;
    this.calls.dataset.key = key;
    const answered = Object.values(this.conversation?.nodes ?? {}).some((other) => other.parent === node.id);
    const cards = node.calls.map((call) => {
      const result = writing || answered ? null : h("textarea", { rows: "2", dir: "auto", "aria-label": `Result of ${call.name}`, placeholder: "What the tool gave back" });
      const card = h(
        "div",
        { class: "call" },
        h("p", {}, icon("tool"), h("span", { text: "Tool call: " }), h("code", { text: call.name })),
        h("pre", { tabindex: "0", role: "group", "aria-label": "Arguments", dir: "ltr", text: pretty(call.arguments) }),
        result,
      );
      return { card, result };
    });
    const open = cards.filter(({ result }) => result);
    const send = open.length
      ? h("button", { type: "button", class: "primary", text: "Send result", onclick: () => actions.result(node, open.map(({ result }) => result.value)) })
      : null;
    this.calls.replaceChildren(...cards.map(({ card }) => card), ...(send ? [send] : []));
  }

  drawNote() {
    const { node } = this;
    const parts = [];
    if (node.leftOut) parts.push(`The oldest ${node.leftOut} messages were left out: they no longer fit into the context.`);
    if (node.state === "stopped") parts.push("Stopped.");
    if (node.reason === "length" && node.state === "done") parts.push("The answer reached its longest length. Settings can allow more.");
    if (node.state === "failed") parts.push(node.error);
    if (node.state === "done" && !node.content && !node.calls?.length) parts.push("The model had nothing to say.");
    this.note.hidden = !parts.length;
    this.note.classList.toggle("failed", node.state === "failed");
    const retry = node.state === "failed" ? h("button", { type: "button", text: "Try again", onclick: () => actions.retry(node) }) : null;
    this.note.replaceChildren(h("p", { text: parts.join(" ") }), ...(retry ? [retry] : []));
  }
}

function pretty(text) {
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text;
  }
}

function factsOf(node) {
  if (!node.usage) return [];
  const { tokens, first, writing } = node.usage;
  const parts = several && node.model ? [node.model] : [];
  parts.push(`${tokens} ${tokens === 1 ? "token" : "tokens"}`);
  // The first token comes of reading, not of writing: speed is of those after it.
  if (tokens > 1 && writing > 50) parts.push(`${(((tokens - 1) * 1000) / writing).toFixed(1)} per second`);
  parts.push(`first after ${(first / 1000).toFixed(first < 9950 ? 1 : 0)} s`);
  return parts.map((text, at) => h("span", { text: at ? ` · ${text}` : text }));
}
