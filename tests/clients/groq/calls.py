"""Makes calls by groq, plain and streamed, and prints what the client saw of each, as JSON lines."""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))

import groq  # noqa: E402
import resolve  # noqa: E402
import seen  # noqa: E402


def main() -> None:
    url, behaviour = sys.argv[1:3]
    client = groq.Groq(
        base_url=resolve.stand_in(url, "api.groq.com"),
        api_key="gsk_THISKEYISSECRET0123456789",
        max_retries=0,
        default_headers={"x-test-behaviour": behaviour},
    )
    messages = [{"role": "user", "content": "What's the capital of France? 漢字 😀"}]

    def chat(case: str, **more):
        more["extra_headers"] = {"x-test-case": case}
        return client.chat.completions.create(model="llama-3.3-70b-versatile", messages=messages, **more)

    def stream(case: str) -> None:
        for _ in chat(case, stream=True, extra_body={"stream_options": {"include_usage": True}}):
            pass

    seen.call("groq", lambda case: chat(case, temperature=0))
    seen.call("groq-stream", stream)


main()
