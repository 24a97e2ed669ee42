// A session of OpenAI Realtime by the SDK of npm, on `ws`: prints what the client saw of each answer, as JSON
// lines.
//
//     node realtime.mjs URL MODULES COUNT BEHAVIOUR

import { createRequire } from "node:module";
import { join } from "node:path";

const [url, modules, count, behaviour] = process.argv.slice(2);
const require = createRequire(join(modules, "index.js"));
const { OpenAI } = require("openai");
const { OpenAIRealtimeWS } = require("openai/realtime/ws");

const client = new OpenAI({ baseURL: `${url}/v1`, apiKey: "sk-test-THIS-KEY-IS-SECRET-0123456789" });
const headers = { "x-test-behaviour": behaviour };
const realtime = new OpenAIRealtimeWS({ model: "gpt-realtime", options: { headers } }, client);

let left = Number(count);
let text = "";

function ask() {
  text = "";
  const content = [{ type: "input_text", text: "Who makes MARMALADE?" + "x".repeat(2000) }];
  realtime.send({ type: "conversation.item.create", item: { type: "message", role: "user", content } });
  realtime.send({ type: "response.create" });
}

realtime.socket.on("open", ask);
realtime.on("response.output_text.delta", (event) => (text += event.delta));
realtime.on("response.done", (event) => {
  console.log(JSON.stringify({ id: event.response.id, text }));
  left -= 1;
  if (left > 0) ask();
  else realtime.close();
});
realtime.on("error", (error) => {
  console.log(JSON.stringify({ error_type: error.constructor.name, error_message: error.message }));
  process.exit(0);
});
