"""Makes calls with the SDKs of other vendors and prints what each saw, as JSON lines: `calls.py URL SDK`."""

import argparse
import asyncio
import json

MESSAGES = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What's the capital of France? 漢字"}]
KEY = "sk-test-THIS-KEY-IS-SECRET-0123456789"


def seen(answer: str) -> None:
    print(json.dumps({"text": answer}), flush=True)


def failed(call) -> None:
    try:
        call()
    except Exception as error:
        print(json.dumps({"error_type": type(error).__name__, "error_message": str(error)}), flush=True)
    else:
        raise AssertionError("it was not refused")


def cohere(url: str) -> None:
    import cohere

    def asks(behaviour: str) -> dict:
        return {"request_options": {"additional_headers": {"x-test-behaviour": behaviour}, "max_retries": 0}}

    client = cohere.ClientV2(api_key=KEY, base_url=url)
    chat = {"model": "command-a-03-2025", "messages": MESSAGES}
    answer = client.chat(**chat, temperature=0.3, **asks("cached=5"))
    seen(answer.message.content[0].text)
    answer = client.chat(**chat, **asks("tools=2; encoding=gzip"))
    seen(" ".join(call.function.name for call in answer.message.tool_calls))
    for behaviour in ["events=40; cached=3", "tools=2", "stream-error=5"]:
        text = ""
        for event in client.chat_stream(**chat, **asks(behaviour)):
            if event.type == "content-delta":
                text += event.delta.message.content.text
        seen(text)
    client.embed(model="embed-v4.0", texts=["a", "b"], input_type="search_query", embedding_types=["float"])
    client.rerank(model="rerank-v3.5", query="a", documents=["b", "c"])
    failed(lambda: client.chat(**chat, **asks("error=429")))

    first = cohere.Client(api_key=KEY, base_url=url)
    chat = {"model": "command-r", "message": "Hello", "temperature": 0}
    seen(first.chat(**chat, **asks("tools=1")).text)
    text = ""
    for event in first.chat_stream(**chat, **asks("events=20")):
        if event.event_type == "text-generation":
            text += event.text
    seen(text)
    asyncio.run(cohere_async(url))


async def cohere_async(url: str) -> None:
    import cohere

    client = cohere.AsyncClientV2(api_key=KEY, base_url=url)
    text = ""
    async for event in client.chat_stream(model="command-a-03-2025", messages=MESSAGES):
        if event.type == "content-delta":
            text += event.delta.message.content.text
    seen(text)


def mistral(url: str) -> None:
    from mistralai.client import Mistral

    client = Mistral(api_key=KEY, server_url=url)

    def asks(behaviour: str) -> dict:
        return {"http_headers": {"x-test-behaviour": behaviour}, "messages": MESSAGES, "model": "mistral-large-latest"}

    seen(client.chat.complete(**asks("cached=5"), temperature=0.3).choices[0].message.content)
    answer = client.chat.complete(**asks("tools=2"), random_seed=7)
    seen(" ".join(call.function.name for call in answer.choices[0].message.tool_calls))
    text = ""
    for event in client.chat.stream(**asks("events=40")):
        text += event.data.choices[0].delta.content or ""
    seen(text)
    answer = client.fim.complete(model="codestral-latest", prompt="def f(", suffix="return 1", temperature=0)
    seen(answer.choices[0].message.content)
    answer = client.agents.complete(agent_id="ag_0123", messages=MESSAGES[1:])
    seen(answer.choices[0].message.content)
    failed(lambda: client.chat.complete(**asks("error=429")))
    asyncio.run(mistral_async(client))


async def mistral_async(client) -> None:
    text = ""
    async for event in await client.chat.stream_async(model="mistral-small-latest", messages=MESSAGES):
        text += event.data.choices[0].delta.content or ""
    seen(text)


def vertex(url: str) -> None:
    from google import genai
    from google.oauth2.credentials import Credentials

    client = genai.Client(
        vertexai=True,
        project="a-project",
        location="europe-west1",
        credentials=Credentials(KEY),
        http_options={"base_url": url, "headers": {"x-test-behaviour": "cached=5; reasoning=3"}},
    )
    ask = {"model": "gemini-2.5-flash", "contents": MESSAGES[1]["content"], "config": {"temperature": 0.5}}
    seen(client.models.generate_content(**ask).text)
    seen("".join(part.text or "" for part in client.models.generate_content_stream(**ask)))
    client.models.embed_content(model="text-embedding-005", contents="Hello")
    client.models.embed_content(model="gemini-embedding-2", contents="Hello")
    express = genai.Client(vertexai=True, api_key=KEY, http_options={"base_url": url})
    seen(express.models.generate_content(**ask).text)
    developer = genai.Client(api_key=KEY, http_options={"base_url": url})
    developer.models.embed_content(model="gemini-embedding-001", contents=["a", "b"])


def anthropic_vertex(url: str) -> None:
    import anthropic

    ask = {"model": "claude-sonnet-4-5@20250929", "max_tokens": 100, "messages": MESSAGES[1:], "system": "Be brief."}
    settings = {"base_url": f"{url}/v1", "project_id": "a-project", "region": "europe-west1", "access_token": KEY}
    client = anthropic.AnthropicVertex(**settings, max_retries=0)
    headers = {"x-test-behaviour": "cached=5"}
    seen(client.messages.create(**ask, extra_headers=headers).content[0].text)
    with client.messages.stream(**ask) as stream:
        seen("".join(stream.text_stream))
    tools = client.messages.create(**ask, extra_headers={"x-test-behaviour": "tools=2"})
    seen(" ".join(block.name for block in tools.content if block.type == "tool_use"))
    failed(lambda: client.messages.create(**ask, extra_headers={"x-test-behaviour": "error=429"}))
    asyncio.run(anthropic_vertex_async(ask, settings))


async def anthropic_vertex_async(ask: dict, settings: dict) -> None:
    import anthropic

    client = anthropic.AsyncAnthropicVertex(**settings)
    async with client.messages.stream(**ask) as stream:
        seen("".join([text async for text in stream.text_stream]))


def ollama(url: str) -> None:
    import ollama

    client = ollama.Client(host=url)
    chat = {"model": "llama3.2", "messages": MESSAGES}
    seen(client.chat(**chat, options={"temperature": 0.5}).message.content)
    seen("".join(part.message.content for part in client.chat(**chat, stream=True)))
    seen(client.generate(model="llama3.2", prompt="Hello").response)
    seen("".join(part.response for part in client.generate(model="llama3.2", prompt="Hello", stream=True)))
    client.embed(model="nomic-embed-text", input=["a", "b"])
    client.embeddings(model="nomic-embed-text", prompt="a")
    strict = ollama.Client(host=url, headers={"x-test-behaviour": "error=404"})
    failed(lambda: strict.chat(**chat))
    tools = ollama.Client(host=url, headers={"x-test-behaviour": "tools=2"})
    answer = tools.chat(**chat)
    seen(" ".join(call.function.name for call in answer.message.tool_calls))


def huggingface(url: str) -> None:
    from huggingface_hub import InferenceClient

    client = InferenceClient(model=url, token=KEY)
    ask = {"prompt": "Hello", "details": True, "temperature": 0.5, "max_new_tokens": 50}
    seen(client.text_generation(**ask).generated_text)
    seen("".join(part.token.text for part in client.text_generation(**ask, stream=True)))
    answer = client.chat_completion(MESSAGES, model=url)
    seen(answer.choices[0].message.content)
    strict = InferenceClient(model=url, token=KEY, headers={"x-test-behaviour": "error=429"})
    failed(lambda: strict.chat_completion(MESSAGES, model=url))


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("url")
    options.add_argument("sdk", choices=["anthropic_vertex", "cohere", "huggingface", "mistral", "ollama", "vertex"])
    chosen = options.parse_args()
    globals()[chosen.sdk](chosen.url)


if __name__ == "__main__":
    main()
