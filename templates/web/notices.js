// What the page says by itself: banner, short notes, and words for screen readers.

import { $, h } from "./dom.js";

const TOAST = 8000;

/** A line across the top as long as something holds; null when it is over. */
export function banner(text, { kind = "", progress = null, action = null } = {}) {
  const element = $("banner");
  element.hidden = text === null;
  element.className = kind;
  const key = JSON.stringify([text, progress, action?.label]);
  if (element.dataset.key === key) return;
  element.dataset.key = key;
  if (text === null) {
    element.replaceChildren();
    return;
  }
  element.replaceChildren(
    h("p", { text }),
    ...(progress === null ? [] : [h("progress", { max: "1", value: String(progress), "aria-label": "Loading" })]),
    ...(action ? [h("button", { type: "button", text: action.label, onclick: action.act })] : []),
  );
}

/** A short note; with an action it can be taken back. */
export function toast(text, action = null) {
  const element = h("div", { class: "toast" }, h("p", { text }));
  const leave = () => element.remove();
  if (action) {
    element.append(
      h("button", {
        type: "button",
        text: action.label,
        onclick: () => {
          leave();
          action.act();
        },
      }),
    );
  }
  $("toasts").append(element);
  while ($("toasts").children.length > 3) $("toasts").firstElementChild.remove();
  const timer = setTimeout(leave, TOAST);
  element.addEventListener("pointerenter", () => clearTimeout(timer));
}

/** Say something to those who do not see the page. */
export function say(text) {
  $("said").textContent = "";
  setTimeout(() => ($("said").textContent = text), 50);
}
