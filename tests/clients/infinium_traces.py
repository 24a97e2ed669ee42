"""Runs traces of infinium-o2: real clients that it watches, and itself, which sends what it recorded. Each trace has a
thread of its own."""

import json
import os
import sys
import threading

from infinium import InfiniumClient, watch

import sdk

# A pause before the head of an answer tells apart when clocks start.
SLOW = "delay-ms=400; events=8; token-ms=20"
# What takes no millisecond has no sum.
TIMED = "delay-ms=20"
TRACES = {
    "plain": [("openai", "sync", f"cached=3; {TIMED}"), ("anthropic", "sync", ""), ("google", "sync", "")],
    "single": [("openai", "sync", "delay-ms=120")],
    "streams": [("openai", "stream", SLOW), ("anthropic", "stream", SLOW), ("google", "stream", SLOW)],
    "xai": [("xai", "sync", ""), ("xai", "stream", SLOW)],
    "refused": [
        ("openai", "sync", "error=429"),
        ("anthropic", "stream", "error=529"),
        ("google", "sync", "error=400"),
        ("openai", "stream", "error=401"),
        ("openai", "sync", TIMED),
    ],
    "uncounted": [("openai", "stream", "usage=none; events=4; token-ms=10"), ("anthropic", "sync", "tools=2"), ("openai", "sync", "tools=1")],
    "long": [("openai", "sync", f"bytes=9000; {TIMED}"), ("anthropic", "stream", "events=400"), ("google", "stream", "bytes=3000")],
    "raises": [("openai", "sync", TIMED), ("anthropic", "sync", "error=429")],
    "lazy": [("google", "stream", "error=503"), ("openai", "sync", TIMED)],
    "left": [("openai", "stream", "events=50; token-ms=5"), ("openai", "sync", TIMED)],
}


def client(url: str, trace: str, call: tuple[str, str, str]) -> sdk.Client:
    name, mode, behaviour = call
    prompt = f"{trace}: it's a \"question\" \\ of 漢字 😀\n" + "word " * (200 if trace == "long" else 1)
    arguments = [url, "--sdk", name, "--mode", mode, "--behaviour", behaviour, "--prompt", prompt]
    if name != "anthropic":
        arguments += ["--temperature", "0.2"]
    if trace == "left":
        arguments += ["--break-after", "3"]
    options = sdk.parser().parse_args(arguments)
    return sdk.Client(options, wrap=lambda client: watch(client, capture_content=True))


def main() -> None:
    url, infinium_url, agent_id = sys.argv[1:4]
    # What the SDKs do only once takes longer than calls do. Nobody answers there, so nobody sees it.
    for name in ("openai", "anthropic", "google"):
        for mode in ("sync", "stream"):
            options = sdk.parser().parse_args(["https://localhost:9", "--sdk", name, "--mode", mode, "--timeout", "1"])
            sdk.call(sdk.Client(options), "once")
    infinium = InfiniumClient(agent_id, os.environ["INFINIUM_AGENT_SECRET"], base_url=infinium_url)
    for trace, calls in TRACES.items():
        clients = [client(url, trace, call) for call in calls]

        @infinium.trace(trace, description="What the function does")
        def agent(question: str) -> list[str]:
            answers = [json.loads(sdk.call(one, trace)) for one in clients[:-1]]
            last = clients[-1]
            if trace == "raises":
                last.start(trace)
            answers.append(json.loads(sdk.call(last, trace)))
            return [answer["text"] for answer in answers]

        def run() -> None:
            try:
                agent("Why?")
            except Exception as error:
                print(json.dumps({"left": type(error).__name__}), flush=True)

        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
    infinium.close()


if __name__ == "__main__":
    main()
