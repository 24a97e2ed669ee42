"""Calls operations of OpenAI's API by openai-python and prints what the client saw of each, as JSON lines.

    calls.py URL [--azure] [--http2] [--asynchronous] [--behaviour …] OPERATION…
"""

import argparse
import asyncio
import inspect
import json
import pathlib
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))

import openai  # noqa: E402
import resolve  # noqa: E402

KEY = "sk-test-THIS-KEY-IS-SECRET-0123456789"
PROMPT = "What's the capital of France? 漢字 😀"
MESSAGES = [{"role": "user", "content": PROMPT}]
USAGE = {"include_usage": True}
AUDIO = ("speech.wav", b"RIFF" + bytes(range(256)) * 64, "audio/wav")
IMAGE = ("image.png", b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 64, "image/png")


def operations(client) -> dict:
    """What can be asked for, and how."""
    chat, completions = client.chat.completions, client.completions
    responses, embeddings, images, audio = client.responses, client.embeddings, client.images, client.audio
    tool = {"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object", "properties": {}}}}
    return {
        "chat": lambda **more: chat.create(model="gpt-4o", messages=MESSAGES, temperature=0, **more),
        "chat-stream": lambda **more: chat.create(
            model="o4-mini", messages=MESSAGES, stream=True, stream_options=USAGE, tools=[tool], **more
        ),
        "responses": lambda **more: responses.create(model="gpt-5", input=PROMPT, temperature=0.5, **more),
        "responses-stream": lambda **more: responses.create(model="gpt-5", input=PROMPT, stream=True, **more),
        "responses-background": lambda **more: responses.create(model="gpt-5", input=PROMPT, background=True, **more),
        "responses-fetch": lambda **more: responses.retrieve("resp_1", **more),
        "completions": lambda **more: completions.create(
            model="gpt-3.5-turbo-instruct", prompt=PROMPT, temperature=0.5, **more
        ),
        "completions-stream": lambda **more: completions.create(
            model="gpt-3.5-turbo-instruct", prompt=[PROMPT], stream=True, stream_options=USAGE, **more
        ),
        "embeddings": lambda **more: embeddings.create(model="text-embedding-3-small", input=PROMPT, **more),
        "embeddings-list": lambda **more: embeddings.create(
            model="text-embedding-3-large", input=[PROMPT, "two", "three"], dimensions=3, encoding_format="float", **more
        ),
        "images": lambda **more: images.generate(model="gpt-image-1", prompt=PROMPT, **more),
        "images-stream": lambda **more: images.generate(
            model="gpt-image-1", prompt=PROMPT, stream=True, partial_images=1, **more
        ),
        "images-edit": lambda **more: images.edit(model="gpt-image-1", image=IMAGE, prompt=PROMPT, **more),
        "speech": lambda **more: audio.speech.create(model="gpt-4o-mini-tts", voice="alloy", input=PROMPT, **more),
        "transcription": lambda **more: audio.transcriptions.create(
            model="gpt-4o-transcribe", file=AUDIO, temperature=0.5, **more
        ),
        "transcription-duration": lambda **more: audio.transcriptions.create(model="whisper-1", file=AUDIO, **more),
        "transcription-text": lambda **more: audio.transcriptions.create(
            model="whisper-1", file=AUDIO, response_format="text", **more
        ),
        "transcription-stream": lambda **more: audio.transcriptions.create(
            model="gpt-4o-mini-transcribe", file=AUDIO, stream=True, **more
        ),
        "translation": lambda **more: audio.translations.create(model="whisper-1", file=AUDIO, **more),
        "moderation": lambda **more: client.moderations.create(model="omni-moderation-latest", input=PROMPT, **more),
        # No calls to a model.
        "cancel": lambda **more: responses.cancel("resp_1", **more),
        "models": lambda **more: client.models.list(**more),
    }


def make_client(options):
    if options.http2:
        import httpx

        make = httpx.AsyncClient if options.asynchronous else httpx.Client
        transport = {"http_client": make(http2=True, limits=httpx.Limits(max_connections=1))}
    else:
        transport = {}
    common = {
        "api_key": KEY,
        "max_retries": 0,
        "timeout": 60.0,
        "default_headers": {"x-test-behaviour": options.behaviour},
        **transport,
    }
    if options.azure:
        make = openai.AsyncAzureOpenAI if options.asynchronous else openai.AzureOpenAI
        url = resolve.stand_in(options.url, "mine.openai.azure.com")
        return make(azure_endpoint=url, api_version="2024-10-21", **common)
    make = openai.AsyncOpenAI if options.asynchronous else openai.OpenAI
    return make(base_url=f"{options.url}/v1", **common)


async def call(make, case: str) -> str:
    """Makes one call to its end, whether the client is synchronous or not."""
    started = time.perf_counter_ns()
    error = None
    try:
        answer = make(extra_headers={"x-test-case": case})
        if inspect.isawaitable(answer):
            answer = await answer
        if hasattr(answer, "__aiter__") and "Stream" in type(answer).__name__:
            async for _ in answer:
                pass
        elif "Stream" in type(answer).__name__:
            for _ in answer:
                pass
    except Exception as raised:
        error = raised
    return json.dumps(
        {
            "case": case,
            "elapsed_ns": time.perf_counter_ns() - started,
            "error_type": type(error).__name__ if error else None,
            "error_message": str(error) if error else None,
        }
    )


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("operations", nargs="+")
    parser.add_argument("--azure", action="store_true")
    parser.add_argument("--http2", action="store_true")
    parser.add_argument("--asynchronous", action="store_true")
    parser.add_argument("--behaviour", default="")
    options = parser.parse_args()
    client = make_client(options)
    known = operations(client)
    for number, name in enumerate(options.operations):
        line = await call(known[name], f"{name}/{number}")
        sys.stdout.write(line + "\n")
    closed = client.close()
    if inspect.isawaitable(closed):
        await closed


asyncio.run(main())
