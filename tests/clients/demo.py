"""A small agent: it plans, searches, writes, and is refused once."""

import sys
import time

import sdk

STEPS = [
    ("openai", "sync", "delay-ms=400", "Plan a trip to Paris."),
    ("anthropic", "stream", "delay-ms=250; token-ms=40; events=30; cached=12", "Write the itinerary."),
    ("google", "stream", "delay-ms=200; token-ms=30; reasoning=80", "Check the opening hours."),
    ("xai", "sync", "delay-ms=300; tools=2", "Book a table."),
    ("openai", "sync", "error=429", "Summarise everything."),
    ("openai", "stream", "delay-ms=300; token-ms=20; events=40", "Summarise everything, again."),
]


def main() -> None:
    url = sys.argv[1]
    for name, mode, behaviour, prompt in STEPS:
        arguments = [url, "--sdk", name, "--mode", mode, "--behaviour", behaviour, "--prompt", prompt]
        options = sdk.parser().parse_args(arguments)
        sdk.call(sdk.Client(options), "demo")
        time.sleep(0.3)


if __name__ == "__main__":
    main()
