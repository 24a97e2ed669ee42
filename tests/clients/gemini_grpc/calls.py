"""As calls.py, by google-generativeai over gRPC, or with `--rest` over REST."""

import os
import pathlib
import sys

# gRPC brings its own TLS library, and has its own name for the file.
os.environ["GRPC_DEFAULT_SSL_ROOTS_FILE_PATH"] = os.environ["SSL_CERT_FILE"]
os.environ["REQUESTS_CA_BUNDLE"] = os.environ["SSL_CERT_FILE"]
TRANSPORT = "rest" if "--rest" in sys.argv else "grpc"
if TRANSPORT == "rest":
    sys.argv.remove("--rest")
sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))

import calls  # noqa: E402
import google.generativeai as genai  # noqa: E402
import sdk  # noqa: E402


class Client(sdk.Client):
    def __init__(self, options) -> None:
        self.options = options
        self.asynchronous = False
        self.streaming = options.mode == "stream"
        genai.configure(
            api_key="AIza-THIS-KEY-IS-SECRET-0123456789",
            transport=TRANSPORT,
            client_options={"api_endpoint": options.url.removeprefix("https://")},
            default_metadata=[("x-test-behaviour", options.behaviour), ("x-test-case", options.case)],
        )
        self.model = genai.GenerativeModel(options.model or "gemini-2.5-flash")

    def start(self, case: str):
        options = self.options
        config = {} if options.temperature is None else {"temperature": options.temperature}
        return self.model.generate_content(
            options.prompt + "x" * options.prompt_bytes,
            generation_config=config,
            stream=self.streaming,
            request_options={"timeout": options.timeout, "retry": None},
        )

    def text(self, part) -> str:
        return "".join(part.text for part in part.candidates[0].content.parts)


call = sdk.call


def call_alike(client: Client, case: str) -> str:
    # What is sent along is the same for all calls of a client.
    return call(client, client.options.case)


if __name__ == "__main__":
    sdk.Client = Client
    sdk.call = call_alike
    calls.main()
