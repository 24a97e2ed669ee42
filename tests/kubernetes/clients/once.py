"""Makes one call by OpenAI's SDK and ends."""

import socket

import openai

client = openai.OpenAI(max_retries=0, default_headers={"x-test-case": socket.gethostname()})
answer = client.chat.completions.create(
    model="gpt-4o-mini", messages=[{"role": "user", "content": "How do you do?"}]
)
print(answer.id)
