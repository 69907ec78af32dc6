// What the scenarios of all clients have in common.

export const address = process.env.SATCHEL_ADDRESS;
export const key = process.env.SATCHEL_KEY;
export const system = "You are a helpful assistant.";
export const question = "What is the name of the capital of France?";
export const user = { role: "user", content: question };
export const messages = [{ role: "system", content: system }, user];
export const askWeather = { role: "user", content: "What is the weather in Paris?" };
export const askPerson = { role: "user", content: "Describe a person as JSON." };
export const askStory = { role: "user", content: "Tell me a very long story." };

export const weather = {
  name: "get_weather",
  description: "Tells the weather in a city.",
  parameters: {
    type: "object",
    properties: { city: { type: "string" } },
    required: ["city"],
    additionalProperties: false,
  },
};

export const person = {
  type: "object",
  properties: { name: { type: "string" }, age: { type: "integer" } },
  required: ["name", "age"],
  additionalProperties: false,
};

// What a call that must fail failed with.
export async function failure(promise) {
  try {
    await promise;
  } catch (error) {
    return {
      kind: error.constructor.name,
      status: error.status ?? error.status_code ?? null,
      message: String(error.message),
    };
  }
  return { kind: "none", status: null, message: "it did not fail" };
}
