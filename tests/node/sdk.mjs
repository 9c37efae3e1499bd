// The official Node SDK against the proxy: prints one JSON line per check; the test reads them.
import OpenAI from "openai";

const [baseURL, apiKey, model] = process.argv.slice(2);
const client = new OpenAI({ baseURL, apiKey, maxRetries: 0 });
const messages = [{ role: "user", content: "Привет!" }];
const told = {};

const plain = await client.chat.completions.create({ model, messages, max_tokens: 40 });
told.plain = plain.choices[0].message.content;
told.usage = plain.usage.total_tokens > 0;

let text = "";
let chunks = 0;
for await (const chunk of await client.chat.completions.create({ model, messages, max_tokens: 40, stream: true })) {
  text += chunk.choices[0].delta.content ?? "";
  chunks += 1;
}
told.stream = text;
told.chunks = chunks;

const tools = [
  { type: "function", function: { name: "weather", parameters: { type: "object", properties: { city: { type: "string" } } } } },
];
const called = await client.chat.completions.create({ model: "demo", messages, tools });
told.tool = called.choices[0].message.tool_calls[0].function;

const embedded = await client.embeddings.create({ model: "demo", input: "one" });
told.dimensions = embedded.data[0].embedding.length;

told.models = [];
for await (const listed of client.models.list()) told.models.push(listed.id);

told.errors = {};
for (const [name, call] of Object.entries({
  unknown: () => client.chat.completions.create({ model: "nothing", messages }),
  bad: () => client.chat.completions.create({ model, messages: [] }),
  stranger: () => new OpenAI({ baseURL, apiKey: "sk-th-strangerstranger", maxRetries: 0 }).models.list(),
})) {
  try {
    await call();
  } catch (error) {
    told.errors[name] = [error.constructor.name, error.status, error.code, Boolean(error.requestID)];
  }
}
console.log(JSON.stringify(told));
