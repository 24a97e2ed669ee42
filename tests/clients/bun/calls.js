// Calls of Bun: by its own fetch and by SDKs of npm, one after another and side by side.
// The arguments: URL of the provider, its certificate, the folder of the packages, and the cases.

import { createRequire } from "node:module";
import { readFileSync } from "node:fs";

const [url, certificate, folder, ...cases] = process.argv.slice(2);
const tls = { ca: readFileSync(certificate, "utf8") };
const packages = createRequire(`${folder}/package.json`);

const PROMPT = "What's the capital of France? 漢字 😀";

async function post(path, document, behaviour) {
  const answer = await fetch(url + path, {
    method: "POST",
    headers: {
      "content-type": "application/json",
      authorization: "Bearer sk-test-THIS-KEY-IS-SECRET-0123456789",
      "x-test-behaviour": behaviour,
    },
    body: JSON.stringify(document),
    tls,
  });
  let bytes = 0;
  for await (const piece of answer.body) bytes += piece.length;
  if (!answer.ok || bytes === 0) throw new Error(`${path}: ${answer.status}, ${bytes} bytes`);
}

const chat = (more) => ({ model: "gpt-4o", messages: [{ role: "user", content: PROMPT }], ...more });

function openai() {
  const { OpenAI } = packages("openai");
  return new OpenAI({
    baseURL: `${url}/v1`,
    apiKey: "sk-test-THIS-KEY-IS-SECRET-0123456789",
    maxRetries: 0,
    fetch: (target, options) => fetch(target, { ...options, tls }),
  });
}

async function drain(stream) {
  let events = 0;
  for await (const _ of stream) events += 1;
  if (events === 0) throw new Error("a stream without events");
}

const CASES = {
  "fetch": () => post("/v1/chat/completions", chat({ temperature: 0.5 }), "cached=3; encoding=gzip"),
  "fetch-stream": () => post("/v1/messages", { ...chat({ stream: true }), max_tokens: 100 }, "cached=7; tools=2"),
  "fetch-large": () => post("/v1/chat/completions", chat({ user: "x".repeat(300_000) }), "bytes=400000"),
  "fetch-parallel": () =>
    Promise.all(Array.from({ length: 8 }, (_, n) => post("/v1/chat/completions", chat({ stream: n % 2 === 0 }), "delay-ms=20"))),
  // One call after another until a line comes.
  "fetch-until-told": async () => {
    const told = new Promise((resolve) => process.stdin.once("data", () => resolve("told")));
    const pause = () => new Promise((resolve) => setTimeout(resolve, 20, "again"));
    let calls = 0;
    do {
      await post("/v1/chat/completions", chat({}), "");
      calls += 1;
    } while ((await Promise.race([told, pause()])) === "again");
    process.stdin.pause();
    return { calls };
  },
  "sdk": () => openai().chat.completions.create(chat({ temperature: 1 })),
  "sdk-stream": async () =>
    drain(await openai().chat.completions.create(chat({ stream: true, stream_options: { include_usage: true } }))),
};

const usual = Object.keys(CASES).filter((name) => name !== "fetch-until-told");
for (const name of cases.length ? cases : usual) {
  const begun = performance.now();
  const said = await CASES[name]();
  const elapsed_ns = Math.round((performance.now() - begun) * 1e6);
  console.log(JSON.stringify({ done: name, elapsed_ns, calls: said?.calls }));
}
