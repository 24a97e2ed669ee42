"""Sessions of WebSocket by real SDKs: prints what the client saw of each answer, as JSON lines."""

import argparse
import asyncio
import base64
import json
import os
import ssl
import time

KEY = "sk-test-THIS-KEY-IS-SECRET-0123456789"
PROMPT = "Who makes MARMALADE?"
# Half a second of speech at 24 kHz.
AUDIO = base64.b64encode(os.urandom(24_000)).decode()


def say(begun: float, **seen) -> None:
    print(json.dumps({"elapsed_ns": int((time.monotonic() - begun) * 1e9), **seen}), flush=True)


class Answer:
    """What the client reads of an answer."""

    def __init__(self) -> None:
        self.begun = time.monotonic()
        self.text = ""
        self.id = None
        self.usage = None

    def take(self, event) -> bool:
        """Takes an event; whether the answer is over."""
        if event.type in ("response.output_text.delta", "response.output_audio_transcript.delta"):
            self.text += event.delta
        elif event.type in ("response.done", "response.completed", "response.failed"):
            self.id = event.response.id
            usage = event.response.usage
            self.usage = usage and [usage.input_tokens, usage.output_tokens]
            return True
        return event.type == "error"

    def say(self, **more) -> None:
        say(self.begun, id=self.id, text=self.text, usage=self.usage, **more)


def message(text: str) -> dict:
    return {"type": "message", "role": "user", "content": [{"type": "input_text", "text": text}]}


def settings(options) -> dict:
    more = {"compression": "deflate"} if options.deflate else {}
    if not options.sdk.endswith("-async"):
        # This client reads in one thread and writes in another, which OpenSSL does not allow: by TLS 1.3, where
        # tickets come while the request is written, it waits in vain for an answer in 3 of 100 runs.
        more["ssl"] = ssl.create_default_context()
        more["ssl"].maximum_version = ssl.TLSVersion.TLSv1_2
    return {
        "extra_headers": {"x-test-behaviour": options.behaviour},
        "websocket_connection_options": more,
    }


def realtime(options) -> None:
    import openai

    client = openai.OpenAI(base_url=f"{options.url}/v1", api_key=KEY)
    with client.realtime.connect(model="gpt-realtime", **settings(options)) as connection:
        connection.session.update(session={"type": "realtime", "max_output_tokens": 99})
        for number in range(options.count):
            answer = Answer()
            if options.vad:
                for _ in range(options.vad):
                    connection.input_audio_buffer.append(audio=AUDIO)
            else:
                connection.conversation.item.create(item=message(PROMPT))
                connection.response.create(event_id=f"mine_{number}")
            for event in connection:
                if answer.take(event):
                    break
            answer.say()


async def realtime_async(options) -> None:
    import openai

    client = openai.AsyncOpenAI(base_url=f"{options.url}/v1", api_key=KEY)
    async with client.realtime.connect(model="gpt-realtime", **settings(options)) as connection:
        await connection.session.update(session={"type": "realtime", "max_output_tokens": 99})
        for number in range(options.count):
            answer = Answer()
            if options.vad:
                for _ in range(options.vad):
                    await connection.input_audio_buffer.append(audio=AUDIO)
            else:
                await connection.conversation.item.create(item=message(PROMPT))
                await connection.response.create(event_id=f"mine_{number}")
            async for event in connection:
                if answer.take(event):
                    break
            answer.say()
    await client.close()


def responses(options) -> None:
    import openai

    client = openai.OpenAI(base_url=f"{options.url}/v1", api_key=KEY)
    with client.responses.connect(**settings(options)) as connection:
        for _ in range(options.count):
            answer = Answer()
            connection.response.create(model="gpt-5-mini", input=PROMPT, temperature=0.5)
            for event in connection:
                if answer.take(event):
                    break
            answer.say()


async def gemini(options) -> None:
    from google import genai
    from google.genai import types

    http = types.HttpOptions(
        base_url=options.url, headers={"x-test-behaviour": options.behaviour}
    )
    client = genai.Client(api_key=KEY, http_options=http)
    config = {"response_modalities": ["TEXT"], "temperature": 0.5}
    async with client.aio.live.connect(model="gemini-live-2.5-flash", config=config) as session:
        for _ in range(options.count):
            answer = Answer()
            turn = types.Content(role="user", parts=[types.Part(text=PROMPT)])
            await session.send_client_content(turns=turn, turn_complete=True)
            async for event in session.receive():
                if event.tool_call:
                    await session.send_tool_response(
                        function_responses=[
                            types.FunctionResponse(id=call.id, name=call.name, response={"ok": 1})
                            for call in event.tool_call.function_calls
                        ]
                    )
                content = event.server_content
                if content and content.model_turn:
                    answer.text += "".join(part.text or "" for part in content.model_turn.parts)
                if event.usage_metadata:
                    usage = event.usage_metadata
                    answer.usage = [usage.prompt_token_count, usage.response_token_count]
            answer.say()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("--sdk", default="realtime")
    parser.add_argument("--count", type=int, default=1, help="answers in a session")
    parser.add_argument("--behaviour", default="")
    parser.add_argument("--deflate", action="store_true")
    parser.add_argument("--vad", type=int, default=0, help="pieces of audio instead of a message")
    options = parser.parse_args()
    begun = time.monotonic()
    try:
        result = {
            "realtime": realtime,
            "realtime-async": realtime_async,
            "responses": responses,
            "gemini": gemini,
        }[options.sdk](options)
        if result is not None:
            asyncio.run(result)
    except Exception as error:
        say(begun, error_type=type(error).__name__, error_message=str(error))


if __name__ == "__main__":
    main()
