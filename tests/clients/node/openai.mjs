// Calls operations of OpenAI's API by the SDK of npm and prints what the client saw of each, as JSON lines.
//
//     node openai.mjs URL MODULES BEHAVIOUR

import { createRequire } from "node:module";
import { join } from "node:path";

const [url, modules, behaviour] = process.argv.slice(2);
const { OpenAI, toFile } = createRequire(join(modules, "index.js"))("openai");
const client = new OpenAI({
  baseURL: `${url}/v1`,
  apiKey: "sk-test-THIS-KEY-IS-SECRET-0123456789",
  maxRetries: 0,
  defaultHeaders: { "x-test-behaviour": behaviour },
});

const prompt = "What's the capital of France? 漢字 😀";
const messages = [{ role: "user", content: prompt }];
const usage = { include_usage: true };
const audio = () => toFile(Buffer.alloc(20_000, "RIFF"), "speech.wav");
const image = () => toFile(Buffer.alloc(20_000, "PNG"), "image.png", { type: "image/png" });

const operations = {
  chat: (with_) => client.chat.completions.create({ model: "gpt-4o", messages, temperature: 0 }, with_),
  "chat-stream": (with_) =>
    client.chat.completions.create({ model: "o4-mini", messages, stream: true, stream_options: usage }, with_),
  responses: (with_) => client.responses.create({ model: "gpt-5", input: prompt }, with_),
  "responses-stream": (with_) => client.responses.create({ model: "gpt-5", input: prompt, stream: true }, with_),
  completions: (with_) => client.completions.create({ model: "gpt-3.5-turbo-instruct", prompt }, with_),
  embeddings: (with_) => client.embeddings.create({ model: "text-embedding-3-small", input: [prompt, "two"] }, with_),
  images: (with_) => client.images.generate({ model: "gpt-image-1", prompt }, with_),
  "images-edit": async (with_) => client.images.edit({ model: "gpt-image-1", image: await image(), prompt }, with_),
  speech: async (with_) => {
    const answer = await client.audio.speech.create({ model: "gpt-4o-mini-tts", voice: "alloy", input: prompt }, with_);
    await answer.arrayBuffer();
  },
  transcription: async (with_) =>
    client.audio.transcriptions.create({ model: "gpt-4o-transcribe", file: await audio() }, with_),
  moderation: (with_) => client.moderations.create({ model: "omni-moderation-latest", input: prompt }, with_),
};

for (const [name, make] of Object.entries(operations)) {
  const started = process.hrtime.bigint();
  let error;
  try {
    const answer = await make({ headers: { "x-test-case": name } });
    if (answer?.[Symbol.asyncIterator]) for await (const _ of answer);
  } catch (raised) {
    error = raised;
  }
  const line = {
    case: name,
    elapsed_ns: Number(process.hrtime.bigint() - started),
    error_type: error?.constructor.name ?? null,
    error_message: error?.message ?? null,
  };
  console.log(JSON.stringify(line));
}
