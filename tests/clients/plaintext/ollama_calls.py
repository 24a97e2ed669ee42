"""Makes calls with the ollama SDK: whole, streamed, and asynchronous."""

import asyncio
import sys

import ollama

MESSAGES = [{"role": "user", "content": "Hello"}]


async def asynchronous(url: str) -> None:
    client = ollama.AsyncClient(host=url)
    async for _ in await client.chat(model="async", messages=MESSAGES, stream=True):
        pass


def main() -> None:
    url = sys.argv[1]
    client = ollama.Client(host=url)
    client.chat(model="whole", messages=MESSAGES, options={"temperature": 0.5})
    for _ in client.chat(model="stream", messages=MESSAGES, stream=True):
        pass
    asyncio.run(asynchronous(url))


if __name__ == "__main__":
    main()
