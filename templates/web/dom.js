// Making elements. Texts only ever become text: nothing here takes markup.

export const $ = (id) => document.getElementById(id);

/** An element with attributes, listeners ("onclick") and children; null leaves one out. */
export function h(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (key === "text") element.textContent = value;
    else element.setAttribute(key, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return element;
}

const SVG = "http://www.w3.org/2000/svg";

/** One of the pictures in index.html. */
export function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  const use = document.createElementNS(SVG, "use");
  use.setAttribute("href", `#i-${name}`);
  svg.setAttribute("aria-hidden", "true");
  svg.append(use);
  return svg;
}

/** A button that shows a picture and is called `label`. */
export function iconButton(picture, label, onclick, more = {}) {
  return h("button", { type: "button", class: "icon", "aria-label": label, title: label, onclick, ...more }, icon(picture));
}

/** A name that no other thing here has. Works where crypto.randomUUID does not: without TLS. */
export function freshId() {
  const bytes = crypto.getRandomValues(new Uint8Array(12));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** Put `text` on the clipboard, also where browsers withhold it: on pages without TLS. */
export async function copyText(text) {
  if (navigator.clipboard && window.isSecureContext) {
    try {
      await navigator.clipboard.writeText(text);
      return true;
    } catch {
      // not allowed: the old way may be
    }
  }
  const area = h("textarea", { class: "unseen", readonly: true, "aria-hidden": "true" });
  area.value = text;
  const focused = document.activeElement;
  (document.querySelector("dialog[open]") ?? document.body).append(area);
  area.select();
  const done = document.execCommand("copy");
  area.remove();
  focused?.focus?.();
  return done;
}

/** A copy button that says for a moment that it has worked. */
export function copyButton(label, textOf, more = {}) {
  const button = iconButton("copy", label, async () => {
    const done = await copyText(textOf());
    button.replaceChildren(icon(done ? "check" : "close"));
    button.setAttribute("aria-label", done ? "Copied" : "Copying is not allowed here");
    setTimeout(() => {
      button.replaceChildren(icon("copy"));
      button.setAttribute("aria-label", label);
    }, 1600);
  }, more);
  return button;
}

/** A menu below `anchor`. Items: {label, act, danger?}. Arrow keys move, Escape closes. */
export function openMenu(anchor, items) {
  document.querySelector(".menu")?.close?.();
  const close = (refocus = false) => {
    menu.remove();
    anchor.setAttribute("aria-expanded", "false");
    document.removeEventListener("pointerdown", outside, true);
    window.removeEventListener("resize", close);
    if (refocus) anchor.focus();
  };
  const outside = (event) => {
    if (!menu.contains(event.target) && !anchor.contains(event.target)) close();
  };
  const buttons = items.map((item) =>
    h("button", {
      type: "button",
      role: "menuitem",
      tabindex: "-1",
      class: item.danger ? "danger" : null,
      text: item.label,
      onclick: () => {
        close(true);
        item.act();
      },
    }),
  );
  const menu = h("div", { class: "menu", role: "menu", "aria-label": anchor.getAttribute("aria-label") || anchor.textContent }, buttons);
  menu.close = close;
  menu.addEventListener("keydown", (event) => {
    const at = buttons.indexOf(document.activeElement);
    const to = { ArrowDown: at + 1, ArrowUp: at - 1 + buttons.length, Home: 0, End: buttons.length - 1 }[event.key];
    if (to !== undefined) buttons[to % buttons.length].focus();
    else if (event.key === "Escape" || event.key === "Tab") close(true);
    else return;
    event.preventDefault();
    event.stopPropagation();
  });
  menu.addEventListener("focusout", (event) => {
    if (event.relatedTarget && !menu.contains(event.relatedTarget)) close();
  });
  document.body.append(menu);
  const place = anchor.getBoundingClientRect();
  const size = menu.getBoundingClientRect();
  const top = place.bottom + 4 + size.height < innerHeight ? place.bottom + 4 : place.top - size.height - 4;
  menu.style.top = `${Math.max(8, top)}px`;
  menu.style.left = `${Math.max(8, Math.min(place.right - size.width, innerWidth - size.width - 8))}px`;
  anchor.setAttribute("aria-expanded", "true");
  document.addEventListener("pointerdown", outside, true);
  window.addEventListener("resize", close);
  buttons[0].focus();
}

/** A dialog with a title; `build(close)` gives its contents. Resolves with what `close` was given. */
export function openDialog(title, build, { narrow = true } = {}) {
  return new Promise((resolve) => {
    let result;
    const close = (value) => {
      result = value;
      dialog.close();
    };
    const heading = h("h2", { id: freshId(), text: title });
    const dialog = h(
      "dialog",
      { "aria-labelledby": heading.id, class: narrow ? "narrow" : null },
      h("div", { class: "dialog-head" }, heading, iconButton("close", "Close", () => close(undefined))),
      build(close),
    );
    dialog.addEventListener("close", () => {
      dialog.remove();
      resolve(result);
    });
    dialog.addEventListener("click", (event) => {
      if (event.target === dialog) close(undefined); // beside it
    });
    document.body.append(dialog);
    dialog.showModal();
    // What is asked for has the focus, not the way out.
    dialog.querySelector(":is(input, select, textarea, .buttons button)")?.focus();
  });
}
