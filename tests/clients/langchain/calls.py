"""Makes calls by langchain-openai and prints what the client saw of each, as JSON lines."""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))

import seen  # noqa: E402
from langchain_core.tools import tool  # noqa: E402
from langchain_openai import ChatOpenAI, OpenAIEmbeddings  # noqa: E402


@tool
def get_weather(city: str) -> str:
    """Says how the weather is."""
    return f"fine in {city}"


def main() -> None:
    url, behaviour = sys.argv[1:3]

    def options(case: str) -> dict:
        return {
            "base_url": f"{url}/v1",
            "api_key": "sk-test-THIS-KEY-IS-SECRET-0123456789",
            "max_retries": 0,
            "default_headers": {"x-test-behaviour": behaviour, "x-test-case": case},
        }

    prompt = "What's the capital of France? 漢字 😀"

    def chat(case: str, **more):
        return ChatOpenAI(model="gpt-4o", **options(case), **more)

    def stream(case: str) -> None:
        for _ in chat(case, stream_usage=True).stream(prompt):
            pass

    def embed(case: str) -> None:
        # Otherwise it would fetch the model's tokens to count them.
        embeddings = OpenAIEmbeddings(
            model="text-embedding-3-small", check_embedding_ctx_length=False, **options(case)
        )
        embeddings.embed_documents(["one", "two"])

    seen.call("invoke", lambda case: chat(case, temperature=0).invoke(prompt))
    seen.call("stream", stream)
    seen.call("tools", lambda case: chat(case).bind_tools([get_weather]).invoke(prompt))
    seen.call("responses", lambda case: chat(case, use_responses_api=True).invoke(prompt))
    seen.call("embeddings", embed)


main()
