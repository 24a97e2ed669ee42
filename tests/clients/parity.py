"""Makes calls with clients that infinium-o2 watches and prints what it recorded, as JSON lines."""

import asyncio
import dataclasses
import itertools
import json
import sys

from infinium.integrations import TraceContext, set_trace_context, watch

import sdk

MODES = ["sync", "async", "stream", "async-stream"]
SDKS = ["openai", "xai", "anthropic", "google"]
# A stream whose creation fails is recorded by observer and, with google-genai, not by infinium-o2.
ERRORS = ["sync", "async"]


def cases():
    for name, mode in itertools.product(SDKS, MODES):
        yield name, mode, [], ""
        temperature = [] if name == "anthropic" else ["--temperature", "0"]
        yield name, mode, [*temperature, "--prompt", "It's " + "long 漢字 " * 100], "events=300"
        yield name, mode, [], "tools=2"
    for name, mode in itertools.product(SDKS, ERRORS):
        for status in [400, 401, 403, 404, 409, 422, 429, 500, 503, 529]:
            yield name, mode, [], f"error={status}"
        yield name, mode, [], "error=502; html"


async def call_async(client: sdk.Client, case: str) -> None:
    await sdk.call_async(client, case)
    await sdk.close_async(client)


def main() -> None:
    url = sys.argv[1]
    for number, (name, mode, more, behaviour) in enumerate(cases()):
        arguments = [url, "--sdk", name, "--mode", mode, "--behaviour", behaviour, *more]
        options = sdk.parser().parse_args(arguments)
        context = TraceContext()
        set_trace_context(context)
        client = sdk.Client(options, wrap=lambda client: watch(client, capture_content=True))
        case = f"{number}"
        if client.asynchronous:
            asyncio.run(call_async(client, case))
        else:
            sdk.call(client, case)
        for call in context.calls:
            record = dataclasses.asdict(call)
            record["case"] = case
            record["stream"] = client.streaming
            record["what"] = f"{name} {mode} {behaviour}"
            print(json.dumps(record), flush=True)


if __name__ == "__main__":
    main()
