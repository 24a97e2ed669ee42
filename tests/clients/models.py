"""Calls models of names that nobody would choose, with openai-python."""

import sys

import openai

url, count = sys.argv[1], int(sys.argv[2])
client = openai.OpenAI(base_url=f"{url}/v1", api_key="sk-test", max_retries=0)
for number in range(count):
    client.chat.completions.create(
        model=f'{number}\n"}} 1\r\0\\{{le="\u202e' + "x" * 1000,
        messages=[{"role": "user", "content": "What's the capital of France?"}],
    )
print("done")
