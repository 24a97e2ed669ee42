// Agents that run at the same time in one thread of Node. Each keeps a conversation.
import OpenAI from "openai";

const [url, count, calls] = process.argv.slice(2);
const client = new OpenAI({
  baseURL: `${url}/v1`,
  apiKey: "sk-test-THIS-KEY-IS-SECRET-0123456789",
  maxRetries: 0,
  defaultHeaders: { "x-test-behaviour": "delay-ms=40" },
});

async function agent(number) {
  const messages = [
    { role: "system", content: "You are a careful agent." },
    { role: "user", content: `[agent ${number}] call 0` },
  ];
  for (let call = 1; call <= Number(calls); call++) {
    const answer = await client.chat.completions.create({ model: "gpt-4o", messages });
    messages.push(answer.choices[0].message, { role: "user", content: `[agent ${number}] call ${call}` });
  }
}

await Promise.all([...Array(Number(count)).keys()].map(agent));
