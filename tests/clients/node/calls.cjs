// Makes calls with an SDK of npm or by Node's own means, and prints what the client saw of each as JSON
// lines. For Node 16 and later.
//
//     node calls.cjs URL [--modules FOLDER] [--sdk NAME,…] [--mode plain|stream|both] [--count N] …

"use strict";

const http2 = require("node:http2");
const https = require("node:https");
const { createRequire } = require("node:module");
const { join } = require("node:path");
const readline = require("node:readline");

const CHAT = "/v1/chat/completions";

const options = parse(process.argv.slice(2));
const headers = { "x-test-behaviour": options.behaviour };
const apiKey = "sk-test-THIS-KEY-IS-SECRET-0123456789";

function parse(words) {
  const options = {
    url: words.shift(),
    modules: process.cwd(),
    sdk: "openai",
    behaviour: "",
    mode: "plain",
    wait: false,
    count: 1,
    concurrent: 1,
    bytes: 0,
  };
  while (words.length > 0) {
    const name = words.shift().replace(/^--/, "");
    if (!(name in options)) throw new Error(`unknown option ${name}`);
    const kind = typeof options[name];
    options[name] = kind === "boolean" ? true : kind === "number" ? Number(words.shift()) : words.shift();
  }
  return options;
}

function load(name) {
  return createRequire(join(options.modules, "index.js"))(name);
}

/** The body of a chat completion. */
function chat(stream) {
  const content = "What's the capital of France? 漢字 😀" + "x".repeat(options.bytes);
  const body = { model: "gpt-4o", messages: [{ role: "user", content }] };
  if (stream) Object.assign(body, { stream: true, stream_options: { include_usage: true } });
  return body;
}

/** The text of a chat completion, or of a stream of it. */
function textOf(answer, stream) {
  if (!stream) return JSON.parse(answer).choices[0].message.content;
  return answer
    .split("\n")
    .filter((line) => line.startsWith("data: {"))
    .map((line) => JSON.parse(line.slice(6)).choices[0]?.delta.content ?? "")
    .join("");
}

/** For each SDK, a function that makes a call for a case and returns the text of its answer. */
const SDKS = {
  openai() {
    const OpenAI = load("openai");
    const client = new OpenAI({ apiKey, baseURL: `${options.url}/v1`, maxRetries: 0, defaultHeaders: headers });
    return async (name, stream) => {
      const answer = await client.chat.completions.create(chat(stream), { headers: { "x-test-case": name } });
      if (!stream) return answer.choices[0].message.content;
      let text = "";
      for await (const event of answer) text += event.choices[0]?.delta?.content ?? "";
      return text;
    };
  },

  anthropic() {
    const Anthropic = load("@anthropic-ai/sdk");
    const client = new Anthropic({ apiKey, baseURL: options.url, maxRetries: 0, defaultHeaders: headers });
    return async (name, stream) => {
      const request = { model: "claude-sonnet-5", max_tokens: 1024, messages: chat(stream).messages, stream };
      const answer = await client.messages.create(request, { headers: { "x-test-case": name } });
      if (!stream) return answer.content.map((block) => block.text ?? "").join("");
      let text = "";
      for await (const event of answer) text += event.delta?.text ?? "";
      return text;
    };
  },

  google() {
    const { GoogleGenAI } = load("@google/genai");
    const client = new GoogleGenAI({ apiKey, httpOptions: { baseUrl: options.url } });
    return async (name, stream) => {
      const config = { httpOptions: { headers: { ...headers, "x-test-case": name } } };
      const request = { model: "gemini-2.5-flash", contents: chat(stream).messages[0].content, config };
      if (!stream) return (await client.models.generateContent(request)).text;
      let text = "";
      for await (const event of await client.models.generateContentStream(request)) text += event.text ?? "";
      return text;
    };
  },

  fetch() {
    return async (name, stream) => {
      const answer = await fetch(options.url + CHAT, {
        method: "POST",
        headers: { ...headers, "x-test-case": name, "content-type": "application/json" },
        body: JSON.stringify(chat(stream)),
      });
      return textOf(await answer.text(), stream);
    };
  },

  https() {
    const agent = new https.Agent({ keepAlive: true });
    return (name, stream) =>
      new Promise((resolve, reject) => {
        const request = https.request(options.url + CHAT, {
          agent,
          method: "POST",
          headers: { ...headers, "x-test-case": name, "content-type": "application/json" },
        });
        request.on("error", reject);
        request.on("response", (response) => {
          const parts = [];
          response.on("data", (part) => parts.push(part));
          response.on("error", reject);
          response.on("end", () => resolve(textOf(Buffer.concat(parts).toString(), stream)));
        });
        request.end(JSON.stringify(chat(stream)));
      });
  },

  http2() {
    const session = http2.connect(options.url);
    // Only open calls keep the program alive.
    let open = 0;
    session.unref();
    return (name, stream) =>
      new Promise((resolve, reject) => {
        const request = session.request({
          ":method": "POST",
          ":path": CHAT,
          ...headers,
          "x-test-case": name,
          "content-type": "application/json",
        });
        if (open++ === 0) session.ref();
        const parts = [];
        request.on("error", reject);
        request.on("data", (part) => parts.push(part));
        request.on("end", () => {
          if (--open === 0) session.unref();
          resolve(textOf(Buffer.concat(parts).toString(), stream));
        });
        request.end(JSON.stringify(chat(stream)));
      });
  },
};

async function main() {
  if (options.wait) {
    console.log("waiting");
    const lines = readline.createInterface({ input: process.stdin });
    await new Promise((resolve) => lines.once("line", resolve));
    lines.close();
  }
  const modes = { plain: [false], stream: [true], both: [false, true] }[options.mode];
  for (const sdk of options.sdk.split(",")) {
    const call = SDKS[sdk]();
    for (const stream of modes) {
      for (let number = 0; number < options.count; number++) {
        const lanes = Array.from({ length: options.concurrent }, (_, lane) => lane);
        const name = `${sdk}/${stream ? "stream" : "plain"}/${number}`;
        await Promise.all(lanes.map((lane) => report(`${name}/${lane}`, (name) => call(name, stream))));
      }
    }
  }
}

/** Makes a call and prints what came of it. */
async function report(name, call) {
  const started = process.hrtime.bigint();
  const seen = { case: name, text: "", error_type: null };
  try {
    seen.text = (await call(name)).slice(0, 100);
  } catch (error) {
    seen.error_type = `${error.constructor.name}: ${error.message} ${error.cause ?? ""}`;
  }
  console.log(JSON.stringify({ ...seen, elapsed_ns: Number(process.hrtime.bigint() - started) }));
}

main();
