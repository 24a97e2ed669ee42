"""As calls.py, by boto3 and by anthropic's client for AWS Bedrock."""

import json
import os
import pathlib
import sys
import threading

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))

import calls  # noqa: E402
import sdk  # noqa: E402

KEY = {"aws_access_key_id": "AKIATHISKEYISSECRET0", "aws_secret_access_key": "THIS-KEY-IS-SECRET-0123456789"}
REGION = "us-east-1"
MODELS = {
    "converse": "us.amazon.nova-lite-v1:0",
    "invoke": "anthropic.claude-sonnet-4-5-20250929-v1:0",
    "anthropic": "us.anthropic.claude-sonnet-4-5-20250929-v1:0",
}

parser = sdk.parser


def parser_with_api():
    options = parser()
    options.add_argument("--api", choices=MODELS, default="converse")
    return options


class Boto(sdk.Client):
    """Converse and InvokeModel by boto3, which is never asynchronous."""

    def __init__(self, options) -> None:
        import boto3
        from botocore.config import Config

        self.options = options
        self.asynchronous = False
        self.streaming = options.mode == "stream"
        self.model = options.model or MODELS[options.api]
        self.case = threading.local()
        config = Config(
            read_timeout=options.timeout,
            retries={"max_attempts": options.retries},
            max_pool_connections=50,
        )
        self.client = boto3.client(
            "bedrock-runtime",
            endpoint_url=options.url,
            verify=os.environ["SSL_CERT_FILE"],
            region_name=REGION,
            config=config,
            **KEY,
        )
        self.client.meta.events.register("before-sign.bedrock-runtime", self.add_headers)

    def add_headers(self, request, **_) -> None:
        request.headers["x-test-behaviour"] = self.options.behaviour
        request.headers["x-test-case"] = self.case.name

    def start(self, case: str):
        self.case.name = case
        if self.options.api == "converse":
            request = self.converse_request()
            if self.streaming:
                return self.client.converse_stream(modelId=self.model, **request)["stream"]
            return self.client.converse(modelId=self.model, **request)
        request = {"modelId": self.model, "body": json.dumps(self.invoke_request())}
        if self.streaming:
            return self.client.invoke_model_with_response_stream(**request)["body"]
        return json.loads(self.client.invoke_model(**request)["body"].read())

    def prompt(self) -> str:
        return self.options.prompt + "x" * self.options.prompt_bytes

    def temperature(self) -> dict:
        temperature = self.options.temperature
        return {} if temperature is None else {"temperature": temperature}

    def converse_request(self) -> dict:
        return {
            "system": [{"text": self.options.system}],
            "messages": [{"role": "user", "content": [{"text": self.prompt()}]}],
            "inferenceConfig": {"maxTokens": 1024, **self.temperature()},
        }

    def invoke_request(self) -> dict:
        """The body that the model's vendor wants."""
        if "anthropic." in self.model:
            return {
                "anthropic_version": "bedrock-2023-05-31",
                "max_tokens": 1024,
                "system": self.options.system,
                "messages": [{"role": "user", "content": self.prompt()}],
                **self.temperature(),
            }
        if "embed" in self.model:
            return {"inputText": self.prompt()}
        if "titan" in self.model:
            return {"inputText": self.prompt(), "textGenerationConfig": self.temperature()}
        if "meta." in self.model:
            return {"prompt": self.prompt(), "max_gen_len": 512, **self.temperature()}
        return {"schemaVersion": "messages-v1", **self.converse_request()}

    def text(self, part) -> str:
        if "chunk" in part:
            part = json.loads(part["chunk"]["bytes"])
        if "output" in part:
            return "".join(block.get("text", "") for block in part["output"]["message"]["content"])
        if "results" in part:
            return part["results"][0]["outputText"]
        if "content" in part:
            return "".join(block.get("text", "") for block in part["content"])
        delta = part.get("contentBlockDelta", part).get("delta", {})
        return delta.get("text") or part.get("generation") or part.get("outputText") or ""


class Anthropic(sdk.Client):
    """The client of anthropic, which sends InvokeModel."""

    def __init__(self, options) -> None:
        import anthropic

        self.options = options
        options.sdk = "anthropic"
        self.asynchronous = options.mode.startswith("async")
        self.streaming = options.mode.endswith("stream")
        self.model = options.model or MODELS["anthropic"]
        make = anthropic.AsyncAnthropicBedrock if self.asynchronous else anthropic.AnthropicBedrock
        self.client = make(
            base_url=options.url,
            aws_region=REGION,
            aws_access_key=KEY["aws_access_key_id"],
            aws_secret_key=KEY["aws_secret_access_key"],
            max_retries=options.retries,
            timeout=options.timeout,
            default_headers={"x-test-behaviour": options.behaviour},
        )


def client(options):
    return (Anthropic if options.api == "anthropic" else Boto)(options)


if __name__ == "__main__":
    sdk.parser = parser_with_api
    sdk.Client = client
    calls.main()
