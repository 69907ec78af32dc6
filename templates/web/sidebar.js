// The list of conversations.

import { $, h, iconButton } from "./dom.js";
import { matches } from "./conversation.js";
import { setSetting, setting } from "./store.js";

const wide = matchMedia("(min-width: 900px)"); // as in style.css
const root = document.documentElement;
let on = null;
let words = [];
let renaming = null;

/** `actions`: open(id), rename(id, title), menu(id, anchor), list() of conversations, current(). */
export function setUpSidebar(actions) {
  on = actions;
  $("search").addEventListener("input", (event) => {
    words = event.target.value.toLocaleLowerCase().split(/\s+/).filter(Boolean);
    showList();
  });
  $("search").addEventListener("keydown", (event) => {
    if (event.key !== "ArrowDown") return;
    event.preventDefault();
    $("list").querySelector("button")?.focus();
  });
  $("list").addEventListener("keydown", (event) => {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (!step || !event.target.classList.contains("entry")) return;
    event.preventDefault();
    const entries = [...$("list").querySelectorAll(".entry")];
    (entries[entries.indexOf(event.target) + step] ?? (step < 0 ? $("search") : event.target)).focus();
  });
  $("open-sidebar").addEventListener("click", () => showSidebar(root.dataset.sidebar !== "shown", true));
  $("close-sidebar").addEventListener("click", () => showSidebar(false, true));
  $("shade").addEventListener("click", () => showSidebar(false, true));
  wide.addEventListener("change", () => showSidebar(wide.matches && setting("sidebar", "") !== "hidden"));
  reflect();
}

/** Show or hide the list. `wished` remembers it, on screens where it lies beside the messages. */
export function showSidebar(shown, wished = false) {
  if (shown) root.dataset.sidebar = "shown";
  else delete root.dataset.sidebar;
  if (wished && wide.matches) setSetting("sidebar", shown ? null : "hidden");
  reflect();
  if (wished) (shown ? (wide.matches ? $("new") : $("close-sidebar")) : $("open-sidebar")).focus();
}

/** After a choice in it: on a phone it lies over what was chosen. */
export function sidebarDone() {
  if (!wide.matches && root.dataset.sidebar) showSidebar(false);
}

function reflect() {
  const shown = root.dataset.sidebar === "shown";
  $("sidebar").inert = !shown;
  $("main").inert = shown && !wide.matches;
  $("open-sidebar").setAttribute("aria-expanded", String(shown));
  $("open-sidebar").setAttribute("aria-label", shown ? "Hide conversations" : "Show conversations");
}

export function showList() {
  // What is being typed there stays, whatever happens meanwhile: its end shows the list.
  if (renaming && document.activeElement?.matches("#list input")) return;
  const all = on.list().sort((one, other) => other.updated - one.updated);
  const found = all.filter((conversation) => matches(conversation, words));
  const groups = new Map();
  for (const conversation of found) {
    const label = dayOf(conversation.updated);
    groups.set(label, [...(groups.get(label) ?? []), conversation]);
  }
  const focused = document.activeElement?.closest?.("#list [data-id]")?.dataset.id;
  const parts = [...groups].flatMap(([label, conversations]) => {
    const heading = h("h2", { text: label, id: `group-${label.replace(/\W/g, "-")}` });
    return [heading, h("ul", { "aria-labelledby": heading.id }, conversations.map(entryOf))];
  });
  const nothing = words.length ? "Nothing found." : "No conversations yet.";
  $("list").replaceChildren(...(parts.length ? parts : [h("p", { class: "empty", text: nothing })]));
  if (focused && !renaming) $("list").querySelector(`[data-id="${focused}"] .entry`)?.focus();
}

function entryOf(conversation) {
  const current = conversation.id === on.current();
  const item = h("li", { "data-id": conversation.id, class: current ? "current" : null });
  if (renaming === conversation.id) {
    item.append(renameField(conversation));
    return item;
  }
  item.append(
    h("button", {
      type: "button",
      class: "entry",
      dir: "auto",
      text: conversation.title || "Untitled",
      "aria-current": current ? "true" : null,
      onclick: () => on.open(conversation.id),
    }),
    iconButton("more", `Options for ${conversation.title || "Untitled"}`, (event) => on.menu(conversation.id, event.currentTarget), {
      "aria-haspopup": "menu",
      title: null,
    }),
  );
  return item;
}

/** Let the person give another title. */
export function startRename(id) {
  showSidebar(true);
  $("search").value = "";
  words = [];
  renaming = id;
  showList();
  $("list").querySelector("input")?.select();
}

function renameField(conversation) {
  const field = h("input", { type: "text", dir: "auto", "aria-label": "Title", maxlength: "200" });
  field.value = conversation.title;
  let over = false;
  const end = (keep) => {
    if (over) return;
    over = true;
    renaming = null;
    if (keep && field.value.trim()) on.rename(conversation.id, field.value.trim());
    else showList();
    $("list").querySelector(`[data-id="${conversation.id}"] .entry`)?.focus();
  };
  field.addEventListener("keydown", (event) => {
    if (event.isComposing) return;
    if (event.key === "Enter") end(true);
    else if (event.key === "Escape") end(false);
    else return;
    event.preventDefault();
    event.stopPropagation();
  });
  field.addEventListener("blur", () => end(true));
  return field;
}

function dayOf(time) {
  const midnight = new Date();
  midnight.setHours(0, 0, 0, 0);
  const days = (midnight - time) / 86400000;
  if (days <= 0) return "Today";
  if (days <= 1) return "Yesterday";
  return days <= 7 ? "Last seven days" : "Older";
}

