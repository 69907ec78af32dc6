// The person's settings. What they leave open, the pack decides.

import { h, openDialog } from "./dom.js";
import { setSetting, setting } from "./store.js";

const NUMBERS = [
  { name: "temperature", label: "Temperature", help: "0 always takes the likeliest word; higher is bolder", min: 0, max: 10, step: "any" },
  { name: "top_p", label: "Top-p", help: "only words that make up this probability", min: 0, max: 1, step: "any" },
  { name: "top_k", label: "Top-k", help: "only this many of the likeliest words; 0 for all", min: 0, max: 1000000, step: 1 },
  { name: "min_p", label: "Min-p", help: "only words this likely relative to the best", min: 0, max: 1, step: "any" },
  { name: "repeat_penalty", label: "Repetition penalty", help: "above 1 discourages repetition", min: 0.01, max: 10, step: "any" },
  { name: "max_tokens", label: "Longest answer", help: "in tokens, about ¾ of a word each", min: 1, max: 2147483647, step: 1 },
  { name: "seed", label: "Seed", help: "the same one gives the same answer", min: 0, max: 4294967295, step: 1 },
];

let place = "settings";
let values = {};

/** Load the settings for the pack called `name`. */
export function loadSettings(name) {
  place = `settings.${name}`;
  const kept = setting(place, {});
  values = typeof kept === "object" ? kept : {};
}

/** What to ask the server for, beside messages and model. Throws nothing: it was checked. */
export function wishes() {
  const made = { system: values.system ?? null };
  for (const { name } of NUMBERS) if (typeof values[name] === "number") made[name] = values[name];
  if (values.schema) {
    made.response_format = { type: "json_schema", json_schema: { name: "answer", schema: JSON.parse(values.schema) } };
  }
  if (values.tools) made.tools = JSON.parse(values.tools);
  return made;
}

/** Let the person change them. `defaults` are the pack's, or null while they are not known. */
export async function openSettings(defaults) {
  const errors = h("p", { class: "errors", role: "alert" });
  const theme = select("Look", { "": "As the system", light: "Light", dark: "Dark" }, setting("theme", ""));
  theme.input.addEventListener("change", () => {
    window.satchelLook.theme(theme.input.value);
    setSetting("theme", theme.input.value || null);
  });
  const system = area("System prompt", "Told to the model before every conversation", 3);
  system.input.value = values.system ?? defaults?.system ?? "";
  const numbers = NUMBERS.map((about) => number(about, defaults));
  const schema = area("JSON schema", "Answers are JSON that is valid under it", 4, '{"type": "object", …}');
  schema.input.value = values.schema ?? "";
  const tools = area("Tools", "A list of functions the model may call, in OpenAI's shape; you give their results", 4, '[{"type": "function", "function": {"name": …}}]');
  tools.input.value = values.tools ?? "";

  const read = () => {
    const made = {};
    if (system.input.value !== (defaults?.system ?? "")) made.system = system.input.value;
    for (const { name, input } of numbers) if (input.value !== "") made[name] = input.valueAsNumber;
    for (const [name, field, fits, what] of [
      ["schema", schema, (value) => typeof value === "object" && value && !Array.isArray(value), "a JSON schema: an object"],
      ["tools", tools, Array.isArray, "a JSON list of tools"],
    ]) {
      const text = field.input.value.trim();
      const wrong = text && !parses(text, fits);
      field.input.setAttribute("aria-invalid", String(Boolean(wrong)));
      if (wrong) {
        errors.textContent = `This is not ${what}.`;
        field.input.closest("details").open = true;
        field.input.focus();
        return null;
      }
      if (text) made[name] = text;
    }
    return made;
  };
  await openDialog(
    "Settings",
    (close) =>
      h(
        "form",
        {
          class: "settings",
          onsubmit: (event) => {
            event.preventDefault();
            const made = read();
            if (!made) return;
            values = made;
            setSetting(place, values);
            close(true);
          },
        },
        theme.field,
        system.field,
        h("div", { class: "numbers" }, numbers.map(({ field }) => field)),
        h("details", { open: Boolean(values.schema || values.tools) }, h("summary", { text: "Structured answers and tools" }), schema.field, tools.field),
        errors,
        h(
          "div",
          { class: "buttons" },
          h("button", {
            type: "button",
            text: "Reset",
            title: "Put everything back to what the pack came with",
            onclick: () => {
              system.input.value = defaults?.system ?? "";
              for (const { input } of numbers) input.value = "";
              schema.input.value = tools.input.value = "";
            },
          }),
          h("button", { class: "primary", text: "Save" }),
        ),
      ),
    { narrow: false },
  );
}

function parses(text, fits) {
  try {
    return fits(JSON.parse(text));
  } catch {
    return false;
  }
}

let count = 0;
function labelled(label, help, input) {
  count += 1;
  input.id = `field-${count}`;
  const about = help ? h("small", { id: `help-${count}`, text: help }) : null;
  if (about) input.setAttribute("aria-describedby", about.id);
  return { input, field: h("div", { class: "field" }, h("label", { for: input.id, text: label }), input, about) };
}

function select(label, choices, chosen) {
  const input = h("select", {}, Object.entries(choices).map(([value, text]) => h("option", { value, text, selected: value === chosen })));
  return labelled(label, "", input);
}

function area(label, help, rows, placeholder = "") {
  return labelled(label, help, h("textarea", { rows: String(rows), dir: "auto", placeholder, spellcheck: "false" }));
}

function number({ name, label, help, min, max, step }, defaults) {
  const own = name === "max_tokens" ? defaults?.max_tokens : defaults?.params?.[name];
  const placeholder = own ?? { seed: "random", max_tokens: "no limit" }[name] ?? "";
  const input = h("input", { type: "number", min: String(min), max: String(max), step: String(step), inputmode: "decimal", placeholder: String(placeholder) });
  input.value = values[name] ?? "";
  return { name, ...labelled(label, help, input) };
}
