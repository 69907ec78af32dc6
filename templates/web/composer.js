// The box where messages are written.

import { $ } from "./dom.js";

const area = $("message");
// Where a focus brings up a keyboard on the screen, which has no Shift + Enter.
const touch = matchMedia("(hover: none) and (pointer: coarse)");
let on = null;
let answering = false;

/** `actions`: send(text), stop(), editLast(), draft(text). */
export function setUpComposer(actions) {
  on = actions;
  $("composer").addEventListener("submit", (event) => {
    event.preventDefault();
    send();
  });
  $("stop").addEventListener("click", () => {
    on.stop();
    area.focus();
  });
  area.addEventListener("input", () => {
    fit();
    on.draft(area.value);
  });
  area.addEventListener("keydown", (event) => {
    if (event.isComposing) return;
    if (event.key === "Enter" && !event.shiftKey && !touch.matches) {
      event.preventDefault();
      send();
    } else if (event.key === "ArrowUp" && !area.value && !answering && on.editLast()) {
      event.preventDefault();
    }
  });
  fit();
}

function send() {
  const text = area.value.trim();
  if (!text || answering) return;
  setDraft("");
  on.draft("");
  on.send(text);
}

export function setDraft(text) {
  area.value = text;
  fit();
}

export const focusComposer = () => touch.matches || area.focus();

/** Whether an answer is being written: then there is something to stop, and nothing to send. */
export function setAnswering(now) {
  const focused = document.activeElement;
  answering = now;
  $("stop").hidden = !now;
  $("send").hidden = now;
  if (focused === $("send") || focused === $("stop")) focusComposer();
  fit();
}

function fit() {
  $("send").disabled = !area.value.trim();
  area.style.height = "auto";
  area.style.height = `${area.scrollHeight}px`;
}
