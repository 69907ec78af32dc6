// node run.mjs CLIENT SCENARIO: runs one scenario against the server that SATCHEL_ADDRESS names,
// with the key SATCHEL_KEY, and prints what came of it as JSON. The caller judges.

const [client, scenario] = process.argv.slice(2);
const { scenarios } = await import(`./${client}.mjs`);
const task = scenarios[scenario];
if (task === undefined) throw new Error(`${client} has no scenario ${scenario}`);
console.log(JSON.stringify(await task()));
