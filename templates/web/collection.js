// All conversations: those that this tab holds, what is kept of them, and what other tabs do to both.

import { allConversations, forget, keep, oneConversation, openStore, setSetting } from "./store.js";
import { isBeingWritten, merge, settle } from "./conversation.js";
import { answerIn, isAnswering, stopAnswer } from "./answering.js";
import { toast } from "./notices.js";

const SILENT = 5000; // milliseconds without news of an answer that another tab writes

export const conversations = new Map();
const silent = new Map(); // by their names, when the answers of other tabs are given up
let on = null;

/** Read those that are kept for the pack called `name`. When another tab changes one or deletes it,
 * `on.changed(conversation)` and `on.gone(conversation)` are told. */
export async function openConversations(name, listeners) {
  on = listeners;
  const kept = await openStore(name, takeOver);
  if (!kept) toast("This browser keeps nothing: conversations last as long as this page is open.");
  for (const conversation of await allConversations()) conversations.set(conversation.id, settle(conversation));
}

/** Whether it is kept; if not, the page says so. */
export async function save(conversation) {
  try {
    await keep(conversation);
    return true;
  } catch (error) {
    const why = error?.name === "QuotaExceededError" ? "This browser has no room left" : "This browser can't write what it keeps";
    toast(`${why}: the conversation is not kept. Delete some, or export it.`);
    return false;
  }
}

/** Whether it is gone. Where the browser can't write, it would be back with the next visit: it stays. */
export async function discard(conversation) {
  stopAnswer(conversation);
  conversations.delete(conversation.id);
  try {
    await forget(conversation.id);
  } catch {
    conversations.set(conversation.id, settle(conversation));
    toast(`“${conversation.title}” was not deleted: this browser can't change what it keeps. Try again.`);
    return false;
  }
  setSetting(`draft.${conversation.id}`, null);
  return true;
}

// Other tabs. This one goes on meanwhile, so what it holds is looked up after each wait.

async function takeOver({ id, gone }) {
  clearTimeout(silent.get(id));
  const theirs = gone ? undefined : await oneConversation(id);
  const mine = conversations.get(id);
  if (!theirs) {
    if (mine) await takeAway(mine);
    return;
  }
  if (!mine) conversations.set(id, theirs);
  else if (merge(mine, theirs, answerIn(mine))) save(mine);
  const known = conversations.get(id);
  if (!isAnswering(known) && isBeingWritten(known)) silent.set(id, setTimeout(giveUp, SILENT, known));
  on.changed(known);
}

async function takeAway(conversation) {
  const wasAnswering = isAnswering(conversation);
  stopAnswer(conversation);
  conversations.delete(conversation.id);
  // What was kept of the answer just before may have brought it back.
  if (wasAnswering) await forget(conversation.id).catch(() => {});
  on.gone(conversation);
}

// A tab that was closed writes no more.
async function giveUp(conversation) {
  const theirs = await oneConversation(conversation.id);
  if (isAnswering(conversation)) return;
  if (theirs) merge(conversation, theirs);
  settle(conversation);
  on.changed(conversation);
}
