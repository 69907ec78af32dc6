// The pack's server, over HTTP. Addresses are relative: a proxy may put us below a path.

const KEY = "satchel.key";

/** The server answered with an error. */
export class ServerError extends Error {
  constructor(status, message, code = "", retryAfter = 0) {
    super(message);
    this.status = status;
    this.code = code;
    this.retryAfter = retryAfter;
  }
}

/** The server did not answer, or stopped answering. */
export class ConnectionLost extends Error {
  constructor() {
    super("The connection to the server was lost.");
  }
}

function kept(storage) {
  try {
    return storage().getItem(KEY); // browsers that keep nothing refuse the storage itself
  } catch {
    return null;
  }
}

let key = kept(() => sessionStorage) ?? kept(() => localStorage) ?? "";
let askKey = null;
let asking = null;

/** `ask(wrong)` is to ask the person for the API key: {key, remember}, or nothing. */
export function onKeyWanted(ask) {
  askKey = ask;
}

// At most one question at a time, whatever many requests are refused.
function obtainKey(wrong) {
  asking ??= askKey(wrong)
    .then((given) => {
      if (!given) return false;
      key = given.key;
      try {
        localStorage.removeItem(KEY);
        (given.remember ? localStorage : sessionStorage).setItem(KEY, key);
      } catch {
        // it is kept as long as this page is open
      }
      return true;
    })
    .finally(() => {
      asking = null;
    });
  return asking;
}

async function request(path, options = {}) {
  for (;;) {
    const headers = { ...options.headers };
    const used = key;
    if (used) headers.Authorization = `Bearer ${used}`;
    let response;
    try {
      response = await fetch(path, { ...options, headers, credentials: "omit", cache: "no-store" });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new ConnectionLost();
    }
    if (response.ok) return response;
    if (response.status === 401 && askKey) {
      // Another request may have obtained a new one meanwhile.
      if (used !== key || (await obtainKey(Boolean(used)))) continue;
    }
    throw await errorOf(response);
  }
}

async function errorOf(response) {
  let detail = {};
  try {
    detail = (await response.json()).error ?? {};
  } catch {
    // something between us and the server said it in its own way
  }
  const message = sentence(detail.message ?? `The server answered with status ${response.status}.`);
  return new ServerError(response.status, message, detail.code ?? "", Number(response.headers.get("retry-after")));
}

function sentence(text) {
  const ended = /[.!?…]$/.test(text) ? text : `${text}.`;
  return ended[0].toUpperCase() + ended.slice(1);
}

/** {status: "ok" | "loading" | "unloaded" | "failed" | "closed" | "lost", progress?, error?,
 * models?: {name: state}}; never throws. */
export async function health() {
  try {
    const response = await fetch("health", { cache: "no-store", signal: AbortSignal.timeout?.(5000) });
    const found = await response.json();
    return typeof found.status === "string" ? found : { status: "lost" };
  } catch {
    return { status: "lost" };
  }
}

export const face = async () => (await request("web/face.json")).json();

/** Names of the models that are served; the first is the default. */
export const models = async () => (await (await request("v1/models")).json()).data.map((model) => model.id);

/** What holds for `model` where a request says nothing. */
export async function defaults(model) {
  const found = await (await request(`props?model=${encodeURIComponent(model)}`)).json();
  return found.default_generation_settings;
}

/** The pieces of an answer, as the server sends them. */
export async function* chat(body, signal) {
  const response = await request("v1/chat/completions", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(body),
    signal,
  });
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  let ended = false;
  try {
    for (;;) {
      let piece;
      try {
        piece = await reader.read();
      } catch (error) {
        if (error.name === "AbortError") throw error;
        throw new ConnectionLost();
      }
      if (piece.done) break;
      const lines = (rest + piece.value).split("\n");
      rest = lines.pop();
      for (const line of lines) {
        if (!line.startsWith("data:")) continue; // comments keep the connection open
        const data = line.slice(5).trim();
        if (data === "[DONE]") {
          ended = true;
          continue;
        }
        const chunk = JSON.parse(data);
        if (chunk.error) throw new ServerError(chunk.error.code === "busy" ? 503 : 500, sentence(chunk.error.message), chunk.error.code ?? "");
        yield chunk;
      }
    }
    if (!ended) throw new ConnectionLost();
  } finally {
    reader.cancel().catch(() => {});
  }
}
