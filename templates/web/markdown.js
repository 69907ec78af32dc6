// Answers as documents: Markdown, of which nothing can run and nothing is fetched.
//
// What the model wrote is parsed by marked, and all markup that comes of it, of the highlighter
// and of the formulas passes DOMPurify with a short list of what may stay.

import { copyButton, h } from "./dom.js";
import { Marked } from "./vendor/marked.js";
import DOMPurify from "./vendor/purify.js";

const HIGHLIGHT_LIMIT = 40000; // characters of code: beyond, colours cost more than they give
const TAGS = [
  "a", "b", "blockquote", "br", "code", "del", "details", "div", "em", "h3", "h4", "h5", "h6", "hr", "i", "ins",
  "kbd", "li", "mark", "ol", "p", "pre", "q", "s", "small", "span", "strong", "sub", "summary", "sup", "table",
  "tbody", "td", "th", "thead", "tr", "u", "ul",
];
const DOCUMENT = {
  ALLOWED_TAGS: TAGS,
  ALLOWED_ATTR: ["align", "data-language", "data-math", "href", "start", "title"],
  ADD_URI_SAFE_ATTR: ["align", "data-language", "data-math", "start"],
  ALLOW_DATA_ATTR: false,
  ALLOW_ARIA_ATTR: false,
  ALLOWED_URI_REGEXP: /^(?:https?:|mailto:)/i,
  RETURN_DOM_FRAGMENT: true,
};
const COLOURS = { ALLOWED_TAGS: ["span"], ALLOWED_ATTR: ["class"], ALLOW_DATA_ATTR: false, ALLOW_ARIA_ATTR: false, RETURN_DOM_FRAGMENT: true };
const FORMULA = { USE_PROFILES: { mathMl: true }, FORBID_ATTR: ["style", "href", "id", "class"], ALLOW_DATA_ATTR: false, RETURN_DOM_FRAGMENT: true };
// Markup that people mean as such in Markdown; any other is shown as it was written.
const PLAIN_TAG = /^(?:<\/?(?:b|br|del|details|em|i|ins|kbd|mark|q|s|small|strong|sub|summary|sup|u)\s*\/?>\s*)+$/i;

const escaped = (text) => text.replace(/[&<>"']/g, (found) => `&#${found.charCodeAt(0)};`);

const formula = (text, display) => `<span data-math="${display ? "display" : "inline"}">${escaped(text)}</span>`;

const mathInline = {
  name: "mathInline",
  level: "inline",
  start: (source) => source.search(/\$|\\[([]/),
  tokenizer(source) {
    const found =
      /^\$\$([^$]+?)\$\$/.exec(source) ?? /^\\\[([^]+?)\\\]/.exec(source) ?? /^\\\(([^]+?)\\\)/.exec(source);
    if (found) return { type: "mathInline", raw: found[0], text: found[1].trim(), display: !source.startsWith("\\(") };
    // Money is no formula: no space inside the dollars, and no digit after them.
    const dollars = /^\$([^\s$](?:[^$\n]*[^\s$\\])?)\$(?!\d)/.exec(source);
    return dollars ? { type: "mathInline", raw: dollars[0], text: dollars[1], display: false } : undefined;
  },
  renderer: (token) => formula(token.text, token.display),
};
const mathBlock = {
  name: "mathBlock",
  level: "block",
  start: (source) => source.search(/(?:^|\n)(?:\$\$|\\\[)/),
  tokenizer(source) {
    const found = /^\$\$([^$]+?)\$\$[ \t]*(?:\n|$)/.exec(source) ?? /^\\\[([^]+?)\\\][ \t]*(?:\n|$)/.exec(source);
    return found ? { type: "mathBlock", raw: found[0], text: found[1].trim() } : undefined;
  },
  renderer: (token) => `<p>${formula(token.text, true)}</p>`,
};

const marked = new Marked({
  gfm: true,
  extensions: [mathInline, mathBlock],
  renderer: {
    html: ({ text }) => (PLAIN_TAG.test(text.trim()) ? text : escaped(text)),
    heading({ tokens, depth }) {
      const level = Math.min(6, depth + 2); // the page has its own above
      return `<h${level}>${this.parser.parseInline(tokens)}</h${level}>`;
    },
    code: ({ text, lang }) =>
      `<pre data-language="${escaped(/^[\w+#.-]{0,30}/.exec(lang ?? "")[0])}"><code>${escaped(text)}</code></pre>`,
    // Nothing is fetched: a picture becomes a link to it.
    image: ({ href, text }) => `<a href="${escaped(href)}">${escaped(text || "picture")}</a>`,
    checkbox: ({ checked }) => (checked ? "☑ " : "☐ "),
  },
});

/** Show `text` in `container`. While it is `writing`, only what has changed is made anew. */
export function showMarkdown(container, text, writing) {
  try {
    show(container, text, writing);
  } catch (error) {
    console.warn(error); // nested too deeply, as models that repeat themselves write
    container.replaceChildren(h("p", { class: "block", text }));
  }
}

function show(container, text, writing) {
  const tokens = marked.lexer(text);
  // A definition of a link changes what came before it.
  if (!writing && Object.keys(tokens.links).length) container.replaceChildren();
  const blocks = tokens.filter((token) => token.type !== "space" && token.type !== "def");
  blocks.forEach((token, number) => {
    const old = container.children[number];
    if (old?.source === token.raw) return;
    const block = h("div", { class: "block" });
    block.source = token.raw;
    block.append(fragmentOf(token));
    if (old) old.replaceWith(block);
    else container.append(block);
  });
  while (container.children.length > blocks.length) container.lastElementChild.remove();
}

function fragmentOf(token) {
  const fragment = DOMPurify.sanitize(marked.parser([token]), DOCUMENT);
  for (const link of fragment.querySelectorAll("a")) {
    if (!link.hasAttribute("href")) continue;
    link.target = "_blank";
    link.rel = "noopener noreferrer nofollow";
    link.title = link.href; // where it really leads
  }
  // "auto" looks at the first letters, but not at those of parts that have a direction themselves.
  for (const part of fragment.querySelectorAll("p, h3, h4, h5, h6, ul, ol, table, summary, blockquote")) {
    if (!part.parentElement?.closest("[dir]")) part.dir = "auto";
  }
  for (const table of fragment.querySelectorAll("table")) {
    const frame = h("div", { class: "table", tabindex: "0", role: "group", "aria-label": "Table" });
    table.replaceWith(frame);
    frame.append(table);
  }
  for (const pre of fragment.querySelectorAll("pre")) frameCode(pre);
  for (const place of fragment.querySelectorAll("[data-math]")) typeset(place);
  return fragment;
}

function frameCode(pre) {
  const language = pre.dataset.language ?? "";
  const code = pre.querySelector("code") ?? pre;
  const text = code.textContent;
  const frame = h("div", { class: "code" });
  const head = h("div", { class: "code-head" }, h("span", { text: language || "text" }), copyButton("Copy code", () => text));
  pre.replaceWith(frame);
  pre.tabIndex = 0;
  pre.setAttribute("role", "group");
  pre.setAttribute("aria-label", language ? `Code, ${language}` : "Code");
  pre.dir = "ltr";
  frame.append(head, pre);
  colour(code, text, language);
}

// The highlighter and the formulas are fetched when they are first needed.
const late = {};
function lateLibrary(name) {
  const entry = (late[name] ??= { library: null, arrives: import(`./vendor/${name}.js`) });
  entry.arrives.then((module) => (entry.library = module.default)).catch(() => delete late[name]);
  return entry;
}

function withLibrary(name, use) {
  const entry = lateLibrary(name);
  if (entry.library) use(entry.library);
  else entry.arrives.then((module) => use(module.default)).catch(() => {});
}

function colour(code, text, language) {
  if (!language || text.length > HIGHLIGHT_LIMIT) return;
  withLibrary("highlight", (highlighter) => {
    if (!highlighter.getLanguage(language)) return;
    const made = highlighter.highlight(text, { language, ignoreIllegals: true }).value;
    code.replaceChildren(DOMPurify.sanitize(made, COLOURS));
  });
}

function typeset(place) {
  const source = place.textContent;
  const displayMode = place.dataset.math === "display";
  withLibrary("temml", (temml) => {
    let made;
    try {
      made = temml.renderToString(source, { displayMode, throwOnError: true, trust: false, maxExpand: 200, annotate: false });
    } catch {
      return; // no formula after all: it stays as it was written
    }
    // Inline styles are not allowed here; taken out first, the browser does not complain of them.
    const picture = DOMPurify.sanitize(made.replace(/ style="[^"]*"/g, ""), FORMULA);
    picture.querySelector("math")?.setAttribute("aria-label", source);
    place.replaceChildren(picture);
  });
}
