"""Makes calls by litellm, in its ways, and prints what the client saw of each, as JSON lines."""

import asyncio
import os
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))
# It would fetch a list of prices otherwise.
os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"

import litellm  # noqa: E402
import seen  # noqa: E402


def main() -> None:
    url, behaviour = sys.argv[1:3]

    def options(case: str, model: str = "openai/gpt-4o") -> dict:
        return {
            "model": model,
            "api_base": f"{url}/v1",
            "api_key": "sk-test-THIS-KEY-IS-SECRET-0123456789",
            "extra_headers": {"x-test-behaviour": behaviour, "x-test-case": case},
            "max_retries": 0,
            "num_retries": 0,
        }

    chat = {"messages": [{"role": "user", "content": "What's the capital of France? 漢字 😀"}]}
    streamed = {**chat, "stream": True, "stream_options": {"include_usage": True}}

    def stream(case: str) -> None:
        for _ in litellm.completion(**options(case), **streamed):
            pass

    async def stream_async(case: str) -> None:
        async for _ in await litellm.acompletion(**options(case), **streamed):
            pass

    seen.call("completion", lambda case: litellm.completion(**options(case), **chat, temperature=0))
    seen.call("completion-stream", stream)
    seen.call("acompletion", lambda case: asyncio.run(litellm.acompletion(**options(case), **chat)))
    seen.call("acompletion-stream", lambda case: asyncio.run(stream_async(case)))
    embedding = options("embedding", "openai/text-embedding-3-small")
    seen.call("embedding", lambda case: litellm.embedding(**embedding, input=["one", "two"]))


main()
