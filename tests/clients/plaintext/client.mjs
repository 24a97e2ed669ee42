// Makes a call with fetch, and a streamed one.
for (const stream of [false, true]) {
  const body = { model: "gpt-4o", messages: [{ role: "user", content: "Hello" }], stream };
  if (stream) body.stream_options = { include_usage: true };
  const answer = await fetch(`${process.argv[2]}/v1/chat/completions`, {
    method: "POST",
    headers: { "content-type": "application/json", "x-test-case": "fetch" },
    body: JSON.stringify(body),
  });
  await answer.text();
}
