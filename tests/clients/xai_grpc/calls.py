"""As calls.py, by xai-sdk."""

import os
import pathlib
import sys

# gRPC brings its own TLS library, and has its own name for the file.
os.environ["GRPC_DEFAULT_SSL_ROOTS_FILE_PATH"] = os.environ["SSL_CERT_FILE"]
sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))

import calls  # noqa: E402
import sdk  # noqa: E402
import xai_sdk  # noqa: E402
from xai_sdk.chat import system, user  # noqa: E402


class Client(sdk.Client):
    def __init__(self, options) -> None:
        self.options = options
        self.asynchronous = options.mode.startswith("async")
        self.streaming = options.mode.endswith("stream")
        make = xai_sdk.AsyncClient if self.asynchronous else xai_sdk.Client
        self.client = make(
            api_key="xai-THIS-KEY-IS-SECRET-0123456789",
            # With localhost it does without TLS.
            api_host=options.url.removeprefix("https://").replace("localhost", "127.0.0.1"),
            metadata=(("x-test-behaviour", options.behaviour), ("x-test-case", options.case)),
            timeout=options.timeout,
        )

    def start(self, case: str):
        options = self.options
        chat = self.client.chat.create(
            model=options.model or "grok-4",
            messages=[system(options.system), user(options.prompt + "x" * options.prompt_bytes)],
            temperature=options.temperature,
        )
        if self.streaming:
            return (chunk for _, chunk in chat.stream())
        return chat.sample()

    def text(self, part) -> str:
        return part.content


call = sdk.call


def call_alike(client: Client, case: str) -> str:
    # What is sent along is the same for all calls of a client.
    return call(client, client.options.case)


if __name__ == "__main__":
    sdk.Client = Client
    sdk.call = call_alike
    calls.main()
