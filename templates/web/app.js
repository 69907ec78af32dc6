// The page: what is open, what a person does, and what becomes of it.

import { $, h, openDialog, openMenu } from "./dom.js";
import * as server from "./server.js";
import { setSetting, setting } from "./store.js";
import { conversations, discard, openConversations, save } from "./collection.js";
import { choose, grow, newConversation, settle, shownPath } from "./conversation.js";
import { answer, isAnswering, saveAnswers, stopAnswer } from "./answering.js";
import { editLast, nameModels, setUpThread, showChange, showThread, toEnd } from "./thread.js";
import { setUpSidebar, showList, showSidebar, sidebarDone, startRename } from "./sidebar.js";
import { focusComposer, setAnswering, setDraft, setUpComposer } from "./composer.js";
import { loadSettings, openSettings, wishes } from "./settings.js";
import { banner, say, toast } from "./notices.js";
import { ImportError, asJson, asMarkdown, download, readExport } from "./files.js";

const LOOK_AGAIN = { ok: 10000, loading: 700, lost: 1500, failed: 3000, closed: 1500 }; // milliseconds
const NEARLY_FULL = 0.8; // of the context

let current = null; // what is open; null for a new one
let pack = { name: "Chat", greeting: "", starters: [] };
let models = [];
let state = ""; // of the server, as /health says it
const defaults = new Map(); // of models, by their names

// What is open

function open(id, { focus = true } = {}) {
  current = conversations.get(id) ?? null;
  history.replaceState(null, "", current ? `#${current.id}` : location.pathname + location.search);
  setDraft(setting(`draft.${current?.id ?? ""}`, ""));
  show();
  showList();
  toEnd();
  sidebarDone();
  if (focus) focusComposer();
}

function show() {
  const title = current?.title || "New conversation";
  $("title").textContent = title;
  document.title = current ? `${title} – ${pack.name}` : pack.name;
  $("conversation-menu").hidden = !current;
  $("welcome").hidden = Boolean(current);
  showThread(current);
  setAnswering(Boolean(current && isAnswering(current)));
  showRoom();
}

// How much of the context is used, once it matters.
function showRoom() {
  const last = current && shownPath(current).filter((node) => node.usage).at(-1);
  const context = defaults.get(chosenModel())?.n_ctx;
  const share = last && context ? (last.usage.prompt + last.usage.tokens) / context : 0;
  $("room").hidden = share < NEARLY_FULL;
  if (share >= NEARLY_FULL) {
    $("room").textContent = `This conversation fills ${Math.min(100, Math.round(share * 100))} % of the model's context. When it is full, its oldest messages are left out.`;
  }
}

// What a person does

function send(text) {
  if (!current) {
    current = newConversation();
    conversations.set(current.id, current);
    history.replaceState(null, "", `#${current.id}`);
  }
  const parent = shownPath(current).at(-1)?.id ?? "";
  const node = grow(current, parent, "user", { content: text });
  toEnd();
  ask(current, node);
}

function ask(conversation, parent) {
  if (isAnswering(conversation)) return;
  const on = {
    change: (node) => conversation === current && showChange(node),
    save: () => conversations.get(conversation.id) === conversation && save(conversation),
    end(node) {
      if (conversation === current) {
        show();
        say(node.state === "failed" ? node.error : `${pack.name}: ${node.content.slice(0, 1500)}`);
      }
      showList();
      loadDefaults();
      if (node.code === "lost") watch();
    },
  };
  answer(conversation, parent, { model: chosenModel(), ...wishes() }, on);
  if (conversation === current) show();
  showList();
  say("Answering");
}

function editMessage(node, text) {
  if (isAnswering(current)) {
    toast("An answer is being written. Wait for its end, or stop it first.");
    return false;
  }
  toEnd();
  ask(current, grow(current, node.parent, "user", { content: text }));
  focusComposer();
  return true;
}

function retry(node) {
  if (isAnswering(current)) return;
  toEnd();
  ask(current, current.nodes[node.parent]);
  focusComposer();
}

function turn(node, label) {
  choose(current, node);
  save(current);
  show();
  // The buttons were made anew: the one that was pressed keeps the focus.
  const buttons = document.querySelector(`[data-node="${node.id}"] .turning`);
  (buttons?.querySelector(`[aria-label="${label}"]:not(:disabled)`) ?? buttons?.querySelector("button:not(:disabled)"))?.focus();
}

function toolResults(node, texts) {
  if (isAnswering(current)) return;
  let parent = node;
  node.calls.forEach((call, at) => {
    parent = grow(current, parent.id, "tool", { content: texts[at] ?? "", callId: call.id });
  });
  ask(current, parent);
  focusComposer();
}

function rename(id, title) {
  const conversation = conversations.get(id);
  if (!conversation) {
    showList();
    return;
  }
  conversation.title = title;
  conversation.named = true;
  conversation.renamed = Date.now();
  save(conversation);
  if (current === conversation) show();
  showList();
}

async function remove(id) {
  const conversation = conversations.get(id);
  if (!conversation) return; // another tab was quicker
  const draft = setting(`draft.${id}`, null);
  if (!(await discard(conversation))) return;
  if (current === conversation) open(null);
  else showList();
  toast(`“${conversation.title}” was deleted.`, {
    label: "Undo",
    act() {
      conversations.set(id, settle(conversation));
      save(conversation);
      setSetting(`draft.${id}`, draft);
      open(id);
    },
  });
}

function conversationMenu(id, anchor) {
  const conversation = conversations.get(id);
  openMenu(anchor, [
    { label: "Rename", act: () => startRename(id) },
    { label: "Export as Markdown", act: () => download(`${conversation.title}.md`, asMarkdown(conversation, pack.name), "text/markdown") },
    { label: "Export as JSON", act: () => download(`${conversation.title}.json`, asJson([conversation]), "application/json") },
    { label: "Delete", danger: true, act: () => remove(id) },
  ]);
}

function dataMenu(anchor) {
  openMenu(anchor, [
    { label: "Import …", act: () => $("import-file").click() },
    { label: "Export all", act: () => download(`${pack.name} conversations.json`, asJson([...conversations.values()]), "application/json") },
    { label: "Delete all", danger: true, act: removeAll },
  ]);
}

async function removeAll() {
  const all = [...conversations.values()];
  if (!all.length) return;
  const sure = await openDialog("Delete all conversations?", (close) =>
    h(
      "div",
      {},
      h("p", { text: `${all.length === 1 ? "One conversation" : `${all.length} conversations`} in this browser will be gone. Export them first if they matter.` }),
      h("div", { class: "buttons" }, h("button", { type: "button", text: "Keep them", onclick: () => close(false) }), h("button", { type: "button", class: "danger", text: "Delete all", onclick: () => close(true) })),
    ),
  );
  if (!sure) return;
  for (const conversation of all) if (!(await discard(conversation))) break;
  open(null);
}

async function importFile(file) {
  try {
    const found = readExport(await file.text());
    for (const conversation of found) {
      if (!(await save(conversation))) return;
      conversations.set(conversation.id, conversation);
      showList();
    }
    showList();
    toast(found.length === 1 ? "One conversation was imported." : `${found.length} conversations were imported.`);
    if (found.length) open(found[0].id);
  } catch (error) {
    if (!(error instanceof ImportError)) console.error(error);
    toast(`${file.name} was not imported: ${error instanceof ImportError ? error.message : "it can't be read"}.`);
  }
}

const KEYS = [
  ["Enter", "send the message"],
  ["Shift + Enter", "a new line"],
  ["Escape", "stop the answer"],
  ["↑ in an empty box", "edit your last message"],
  ["/", "go to the message box"],
  ["Ctrl + K", "search conversations"],
  ["Ctrl + Shift + O", "new conversation"],
  ["Ctrl + Shift + S", "show or hide conversations"],
  ["?", "this list"],
];

function showKeys() {
  openDialog("Keyboard", () => h("dl", { class: "keys" }, KEYS.flatMap(([key, does]) => [h("dt", {}, h("kbd", { text: key })), h("dd", { text: does })])));
}

function onKey(event) {
  if (event.isComposing || document.querySelector("dialog[open]")) return;
  const typing = event.target.matches?.("input, textarea, select");
  const control = event.ctrlKey || event.metaKey;
  const pressed = event.key.toLowerCase();
  if (control && !event.shiftKey && pressed === "k") {
    showSidebar(true);
    $("search").focus();
    $("search").select();
  } else if (control && event.shiftKey && pressed === "o") open(null);
  else if (control && event.shiftKey && pressed === "s") $("open-sidebar").click();
  else if (event.key === "Escape" && !$("main").inert && current && isAnswering(current)) stopAnswer(current);
  else if (event.key === "Escape" && $("main").inert) showSidebar(false, true);
  else if (!typing && !control && event.key === "/") focusComposer();
  else if (!typing && !control && event.key === "?") showKeys();
  else return;
  event.preventDefault();
}

// The server

const chosenModel = () => (models.includes($("model").value) ? $("model").value : (models[0] ?? "default"));

let watching = null;
async function watch() {
  clearTimeout(watching);
  const found = await server.health();
  const before = state;
  // Of several models each has a state of its own; one that is not loaded will be when it is asked.
  state = found.models?.[chosenModel()] ?? found.status;
  if (state === "ready" || state === "unloaded") state = "ok";
  if (state === "loading") {
    banner("The model is loading. You can write already.", { progress: found.progress ?? null });
  } else if (state === "ok") {
    banner(null);
    if (before !== "ok") loadServer();
  } else if (state === "lost") {
    showLost(pack.name);
  } else {
    banner(`The model can't answer: ${found.error ?? state}.`, { kind: "bad" });
  }
  clearTimeout(watching);
  watching = setTimeout(watch, LOOK_AGAIN[state] ?? 3000);
}

function showLost(name) {
  banner(`There is no connection to ${name}. Is it still running? Your conversations are safe, and this page reconnects by itself.`, { kind: "bad" });
}

async function loadServer() {
  try {
    // Another pack may have been started at this address meanwhile.
    if ((await server.face()).name !== pack.name) {
      location.reload();
      return;
    }
    models = await server.models();
  } catch {
    return; // the next look at its health tells
  }
  const select = $("model");
  const wanted = setting("model", models[0]);
  select.replaceChildren(...models.map((name) => h("option", { value: name, text: name, selected: name === wanted })));
  $("model-choice").hidden = models.length < 2;
  nameModels(models.length > 1);
  showThread(current);
  loadDefaults();
}

async function loadDefaults() {
  const model = chosenModel();
  try {
    defaults.set(model, await server.defaults(model));
  } catch {
    return; // the settings show no defaults until it can be asked
  }
  showRoom();
}

async function showSettings() {
  if (!defaults.has(chosenModel())) await loadDefaults();
  openSettings(defaults.get(chosenModel()) ?? null);
}

function askKey(wrong) {
  return openDialog("API key", (close) => {
    const field = h("input", { type: "password", id: "api-key", autocomplete: "current-password", required: true, "aria-describedby": "api-key-help" });
    const remember = h("input", { type: "checkbox", id: "api-key-remember" });
    return h(
      "form",
      {
        onsubmit: (event) => {
          event.preventDefault();
          const key = field.value.trim();
          if (key) close({ key, remember: remember.checked });
        },
      },
      h("p", { id: "api-key-help", role: wrong ? "alert" : null, class: wrong ? "errors" : null, text: wrong ? "That key is wrong. Try again:" : `${pack.name} answers only who knows its key. Ask whoever started it.` }),
      h("div", { class: "field" }, h("label", { for: "api-key", text: "Key" }), field),
      h("label", { class: "check" }, remember, "Remember it in this browser"),
      h("div", { class: "buttons" }, h("button", { class: "primary", text: "Continue" })),
    );
  });
}

// Start

function showPack() {
  document.title = pack.name;
  $("brand-name").textContent = $("welcome-name").textContent = pack.name;
  $("greeting").textContent = pack.greeting || "Ask something. Nothing you write leaves this machine.";
  $("message").placeholder = `Write to ${pack.name}`;
  $("starters").replaceChildren(...pack.starters.map((text) => h("button", { type: "button", dir: "auto", text, onclick: () => send(text) })));
  $("starters").hidden = !pack.starters.length;
}

// Its name says which conversations are shown: before it is known none are, and none are kept.
async function meetPack() {
  for (;;) {
    try {
      pack = await server.face();
      return;
    } catch {
      showLost("the assistant");
      await new Promise((resolve) => setTimeout(resolve, LOOK_AGAIN.lost));
    }
  }
}

async function start() {
  server.onKeyWanted(askKey);
  await meetPack();
  setUpSidebar({
    open,
    rename,
    menu: conversationMenu,
    list: () => [...conversations.values()],
    current: () => current?.id,
  });
  setUpComposer({
    send,
    stop: () => current && stopAnswer(current),
    editLast,
    draft: (text) => setSetting(`draft.${current?.id ?? ""}`, text || null),
  });
  $("new").addEventListener("click", () => open(null));
  $("conversation-menu").addEventListener("click", (event) => conversationMenu(current.id, event.currentTarget));
  $("data-menu").addEventListener("click", (event) => dataMenu(event.currentTarget));
  $("show-keys").addEventListener("click", showKeys);
  $("open-settings").addEventListener("click", showSettings);
  $("model").addEventListener("change", (event) => {
    setSetting("model", event.target.value);
    loadDefaults();
    watch();
  });
  $("import-file").addEventListener("change", (event) => {
    const [file] = event.target.files;
    event.target.value = "";
    if (file) importFile(file);
  });
  document.addEventListener("keydown", onKey);
  document.addEventListener("visibilitychange", () => document.visibilityState === "visible" && watch());
  window.addEventListener("pagehide", saveAnswers);
  window.addEventListener("pageshow", (event) => event.persisted && location.reload()); // it was told nothing meanwhile
  window.addEventListener("hashchange", () => {
    const id = location.hash.slice(1);
    // The link to the message box leads to no conversation.
    if (!id || conversations.has(id)) open(id);
    else history.replaceState(null, "", current ? `#${current.id}` : location.pathname + location.search);
  });
  window.satchelLook.accent(pack.accent);
  setSetting("accent", pack.accent);
  loadSettings(pack.name);
  setUpThread(pack.name, { edit: editMessage, retry, turn, result: toolResults });
  showPack();
  watch();
  await openConversations(pack.name, {
    changed(conversation) {
      if (current === conversation) show();
      showList();
    },
    gone(conversation) {
      if (current === conversation) open(null, { focus: false });
      else showList();
    },
  });
  open(location.hash.slice(1));
  document.documentElement.dataset.ready = "";
}

start();
