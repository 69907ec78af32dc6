// Conversations, kept in this browser. Where it keeps nothing, they last as long as the page.

let place = ""; // the database's name
let database = null;
let channel = null;

function promised(request) {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}

/** Open the store of the pack called `name`: packs may share an address, one after the other.
 * `onChange({id, gone})` is told what another tab has changed, or deleted. Resolves to whether anything is kept. */
export async function openStore(name, onChange) {
  try {
    place = `satchel:${name}`;
    await connect();
  } catch {
    return false;
  }
  if ("BroadcastChannel" in window) {
    channel = new BroadcastChannel(`satchel:${name}`);
    channel.onmessage = (event) => onChange(event.data);
  }
  return true;
}

async function connect() {
  const opening = indexedDB.open(place, 1);
  opening.onupgradeneeded = () => opening.result.createObjectStore("conversations", { keyPath: "id" });
  const found = await promised(opening);
  // A newer page in another tab may need another shape.
  found.onversionchange = () => found.close();
  database = found;
}

// Null where the browser has closed the database by itself: when site data is cleared, say.
function begin(mode) {
  try {
    return database.transaction("conversations", mode);
  } catch (error) {
    if (error.name !== "InvalidStateError") throw error;
    return null;
  }
}

async function asked(ask) {
  if (!begin("readonly")) await connect();
  return promised(ask(begin("readonly").objectStore("conversations")));
}

/** What `ask` wants of the table is done for good when this resolves. The browser is told at once
 * that no more will follow: left to find that out by itself, it drops the change when the page is
 * closed or loaded again within the next moments. */
async function changed(ask) {
  let transaction = begin("readwrite"); // without a wait: the page may be leaving
  if (!transaction) {
    await connect();
    transaction = begin("readwrite");
  }
  await new Promise((resolve, reject) => {
    transaction.oncomplete = () => resolve();
    transaction.onabort = () => reject(transaction.error);
    ask(transaction.objectStore("conversations"));
    transaction.commit?.();
  });
}

export const allConversations = async () => (database ? asked((table) => table.getAll()) : []);

export const oneConversation = async (id) => (database ? asked((table) => table.get(id)) : undefined);

/** Keep `conversation`. Rejects when there is no room. */
export async function keep(conversation) {
  if (!database) return;
  await changed((table) => table.put(conversation));
  channel?.postMessage({ id: conversation.id });
}

/** Keep it no longer. Rejects when the browser can't write. */
export async function forget(id) {
  if (!database) return;
  await changed((table) => table.delete(id));
  channel?.postMessage({ id, gone: true });
}

/** A small setting; the fallback where it was never set or nothing is kept. */
export function setting(name, fallback) {
  try {
    return JSON.parse(localStorage.getItem(`satchel.${name}`)) ?? fallback;
  } catch {
    return fallback;
  }
}

export function setSetting(name, value) {
  try {
    if (value === null) localStorage.removeItem(`satchel.${name}`);
    else localStorage.setItem(`satchel.${name}`, JSON.stringify(value));
  } catch {
    // it holds as long as this page is open
  }
}
