// Conversations, kept in this browser. Where it keeps nothing, they last as long as the page.

let database = null;
let channel = null;

function promised(request) {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}

/** Open the store of the pack called `name`: packs may share an address, one after the other.
 * `onChange(id)` is told what another tab has changed. Resolves to whether anything is kept. */
export async function openStore(name, onChange) {
  try {
    const opening = indexedDB.open(`satchel:${name}`, 1);
    opening.onupgradeneeded = () => opening.result.createObjectStore("conversations", { keyPath: "id" });
    database = await promised(opening);
    // A newer page in another tab may need another shape.
    database.onversionchange = () => database.close();
  } catch {
    return false;
  }
  if ("BroadcastChannel" in window) {
    channel = new BroadcastChannel(`satchel:${name}`);
    channel.onmessage = (event) => onChange(event.data);
  }
  return true;
}

const table = () => database.transaction("conversations").objectStore("conversations");

export const allConversations = async () => (database ? promised(table().getAll()) : []);

export const oneConversation = async (id) => (database ? promised(table().get(id)) : undefined);

/** What `ask` wants of the table is done for good when this resolves. The browser is told at once
 * that no more will follow: left to find that out by itself, it drops the change when the page is
 * closed or loaded again within the next moments. */
function changed(ask) {
  const transaction = database.transaction("conversations", "readwrite");
  return new Promise((resolve, reject) => {
    transaction.oncomplete = () => resolve();
    transaction.onabort = () => reject(transaction.error);
    ask(transaction.objectStore("conversations"));
    transaction.commit?.();
  });
}

/** Keep `conversation`. Rejects when there is no room. */
export async function keep(conversation) {
  if (!database) return;
  await changed((table) => table.put(conversation));
  channel?.postMessage(conversation.id);
}

/** Keep it no longer. Rejects when the browser can't write. */
export async function forget(id) {
  if (!database) return;
  await changed((table) => table.delete(id));
  channel?.postMessage(id);
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
