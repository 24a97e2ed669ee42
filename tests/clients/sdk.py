"""One way to call every SDK, so that a scenario is a set of options and not a script."""

import argparse
import asyncio
import json
import time


def parser() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser()
    options.add_argument("url")
    options.add_argument("--sdk", choices=["openai", "xai", "anthropic", "google"], default="openai")
    options.add_argument("--mode", choices=["sync", "async", "stream", "async-stream"], default="sync")
    options.add_argument("--behaviour", default="", help="header x-test-behaviour")
    options.add_argument("--case", default="case", help="header x-test-case, with a number")
    options.add_argument("--model")
    options.add_argument("--key", default="sk-test-THIS-KEY-IS-SECRET-0123456789")
    options.add_argument("--prompt", default="What's the capital of France? 漢字 😀")
    options.add_argument("--prompt-bytes", type=int, default=0)
    options.add_argument("--system", default="Be brief.")
    options.add_argument("--temperature", type=float)
    options.add_argument("--n", type=int)
    options.add_argument("--no-usage", action="store_true")
    options.add_argument("--break-after", type=int, help="leave the stream after this many events")
    options.add_argument("--cancel-after", type=float, help="cancel an asynchronous call after this many seconds")
    options.add_argument("--retries", type=int, default=0)
    options.add_argument("--timeout", type=float, default=60.0)
    return options


def default_model(sdk: str) -> str:
    return {
        "openai": "gpt-4o",
        "xai": "grok-4",
        "anthropic": "claude-sonnet-5",
        "google": "gemini-2.5-flash",
    }[sdk]


class Client:
    """A client of one SDK, synchronous or not."""

    def __init__(self, options: argparse.Namespace, wrap=lambda client: client) -> None:
        self.options = options
        self.asynchronous = options.mode.startswith("async")
        self.streaming = options.mode.endswith("stream")
        self.model = options.model or default_model(options.sdk)
        key = options.key
        headers = {"x-test-behaviour": options.behaviour}
        if options.sdk in ("openai", "xai"):
            import openai

            make = openai.AsyncOpenAI if self.asynchronous else openai.OpenAI
            prefix = "/xai" if options.sdk == "xai" else ""
            client = make(
                base_url=f"{options.url}{prefix}/v1",
                api_key=key,
                max_retries=options.retries,
                timeout=options.timeout,
                default_headers=headers,
            )
        elif options.sdk == "anthropic":
            import anthropic

            make = anthropic.AsyncAnthropic if self.asynchronous else anthropic.Anthropic
            client = make(
                base_url=options.url,
                api_key=key,
                max_retries=options.retries,
                timeout=options.timeout,
                default_headers=headers,
            )
        else:
            from google import genai

            http_options: dict = {
                "base_url": options.url,
                "headers": headers,
                "timeout": int(options.timeout * 1000),
            }
            if options.retries:
                http_options["retry_options"] = {"attempts": options.retries + 1, "initial_delay": 0.05}
            client = genai.Client(api_key=key, http_options=http_options)
        # The SDKs import the most of themselves here, which takes longer than some calls are waited for.
        if options.sdk == "google":
            _ = client.aio.models if self.asynchronous else client.models
        elif options.sdk == "anthropic":
            _ = client.messages
        else:
            _ = client.chat.completions
        self.client = wrap(client)

    def request(self, case: str) -> dict:
        options = self.options
        prompt = options.prompt + "x" * options.prompt_bytes
        headers = {"x-test-case": case}
        if options.sdk == "google":
            config: dict = {"http_options": {"headers": headers}}
            if options.temperature is not None:
                config["temperature"] = options.temperature
            return {"model": self.model, "contents": prompt, "config": config}
        request: dict = {
            "model": self.model,
            "messages": [{"role": "user", "content": prompt}],
            "extra_headers": headers,
        }
        if self.streaming:
            request["stream"] = True
        if options.sdk == "anthropic":
            request["max_tokens"] = 1024
            request["system"] = options.system
            if options.temperature is not None:
                request["extra_body"] = {"temperature": options.temperature}
        else:
            request["messages"].insert(0, {"role": "system", "content": options.system})
            if options.temperature is not None:
                request["temperature"] = options.temperature
            if options.n is not None:
                request["n"] = options.n
            if self.streaming and not options.no_usage:
                request["stream_options"] = {"include_usage": True}
        return request

    def start(self, case: str):
        """Starts a call; with asynchronous clients the result must be awaited."""
        request = self.request(case)
        if self.options.sdk == "google":
            models = self.client.aio.models if self.asynchronous else self.client.models
            method = models.generate_content_stream if self.streaming else models.generate_content
            return method(**request)
        if self.options.sdk == "anthropic":
            return self.client.messages.create(**request)
        return self.client.chat.completions.create(**request)

    def text(self, part) -> str:
        """The text of an answer or of one event of it."""
        if self.options.sdk == "google":
            return part.text or ""
        if self.options.sdk == "anthropic":
            if self.streaming:
                return getattr(getattr(part, "delta", None), "text", None) or ""
            return "".join(getattr(block, "text", "") for block in part.content)
        if not part.choices:
            return ""
        choice = part.choices[0]
        return (choice.delta if self.streaming else choice.message).content or ""


class Seen:
    """What the client itself saw of a call."""

    def __init__(self, case: str) -> None:
        self.case = case
        self.started = time.perf_counter_ns()
        self.text = ""
        self.first_ns = None
        self.error = None

    def read(self, text: str) -> None:
        """Takes the text of the next event of a stream."""
        self.text += text
        if text and self.first_ns is None:
            self.first_ns = time.perf_counter_ns() - self.started

    def line(self) -> str:
        return json.dumps(
            {
                "case": self.case,
                "elapsed_ns": time.perf_counter_ns() - self.started,
                "first_ns": self.first_ns,
                "text": self.text,
                "error_type": type(self.error).__name__ if self.error else None,
                "error_message": str(self.error) if self.error else None,
            }
        )


def call(client: Client, case: str) -> str:
    seen = Seen(case)
    try:
        answer = client.start(case)
        if not client.streaming:
            seen.text = client.text(answer)
        else:
            for index, event in enumerate(answer):
                seen.read(client.text(event))
                if index + 1 == client.options.break_after:
                    answer.close()
                    break
    except Exception as error:
        seen.error = error
    return seen.line()


async def call_async(client: Client, case: str) -> str:
    seen = Seen(case)
    try:
        await asyncio.wait_for(read_async(client, seen), client.options.cancel_after)
    except Exception as error:
        seen.error = error
    return seen.line()


async def read_async(client: Client, seen: Seen) -> None:
    answer = await client.start(seen.case)
    if not client.streaming:
        seen.text = client.text(answer)
        return
    index = 0
    async for event in answer:
        seen.read(client.text(event))
        index += 1
        if index == client.options.break_after:
            await (answer.aclose() if hasattr(answer, "aclose") else answer.close())
            break


async def close_async(client: Client) -> None:
    """Closes the connections of an asynchronous client while its loop runs."""
    if client.options.sdk == "google":
        await client.client.aio.aclose()
    else:
        await client.client.close()


def run(coroutine, uvloop: bool = False):
    if uvloop:
        import uvloop as loop

        return loop.run(coroutine)
    return asyncio.run(coroutine)
