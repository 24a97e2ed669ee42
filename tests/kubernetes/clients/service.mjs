// A service that makes calls by OpenAI's SDK when it is asked to:
//
//     node service.mjs MODULES
//     GET /?count=N   so many calls, one of two as a stream
//
// It answers with the ids of the calls' answers as JSON.

import { createServer } from "node:http";
import { createRequire } from "node:module";
import { hostname } from "node:os";
import { join } from "node:path";

const { OpenAI } = createRequire(join(process.argv[2], "index.js"))("openai");
const client = new OpenAI({ maxRetries: 0, defaultHeaders: { "x-test-case": hostname() } });
const messages = [{ role: "user", content: "How do you do?" }];

async function call(stream) {
  if (!stream) return (await client.chat.completions.create({ model: "gpt-4.1", messages })).id;
  const asked = { model: "gpt-4.1", messages, stream: true, stream_options: { include_usage: true } };
  let id;
  for await (const event of await client.chat.completions.create(asked)) id = event.id;
  return id;
}

const server = createServer(async (request, response) => {
  const count = new URL(request.url, "http://localhost").searchParams.get("count");
  const ids = [];
  try {
    for (let number = 0; number < count; number++) ids.push(await call(number % 2 === 1));
    response.end(JSON.stringify(ids));
  } catch (error) {
    console.error(error);
    response.writeHead(500).end(String(error));
  }
});
// Node.js is process 1 of its container, which ends by no signal that it does not handle.
process.on("SIGTERM", () => process.exit(0));
server.listen(8080);
