"""Agents, each in a thread: they plan, have a tool called, answer; some are refused, and one goes wrong.

Prints what each saw, as a JSON line. With --wait the agents begin at a line of standard input."""

import argparse
import json
import sys
import threading
import time

import openai

TOOL = {"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object", "properties": {}}}}
MODELS = ["gpt-4o", "gpt-4o-mini", "o4-mini"]


class Agent:
    def __init__(self, options, number: int) -> None:
        self.client = openai.OpenAI(base_url=f"{options.url}/v1", api_key="sk-test-SECRET-0123456789", max_retries=0)
        self.number = number
        self.pace = options.pace
        self.model = MODELS[number % len(MODELS)]
        self.messages = [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": f"Agent {number}: will it rain? </script><b>x</b>"},
        ]
        self.calls = self.errors = self.tools = 0

    def ask(self, behaviour: str, stream: bool = False, **more):
        self.calls += 1
        try:
            answer = self.client.chat.completions.create(
                model=self.model,
                messages=self.messages,
                stream=stream,
                extra_headers={"x-test-behaviour": behaviour},
                **({"stream_options": {"include_usage": True}} if stream else {}),
                **more,
            )
            if stream:
                text = "".join(part.choices[0].delta.content or "" for part in answer if part.choices)
                self.messages.append({"role": "assistant", "content": text})
                return None
            return answer.choices[0].message
        except openai.APIError:
            self.errors += 1
            return None

    def run(self) -> None:
        pace = self.pace
        self.ask(f"delay-ms={120 * pace:.0f}; token-ms={12 * pace:.0f}; events=20", stream=True)
        answer = self.ask(f"delay-ms={90 * pace:.0f}; tools=1", tools=[TOOL])
        if answer and answer.tool_calls:
            self.messages.append(answer.model_dump(exclude_none=True))
            for call in answer.tool_calls:
                self.tools += 1
                time.sleep(0.15 * pace)
                self.messages.append({"role": "tool", "tool_call_id": call.id, "content": "It rains."})
        if self.number % 3 == 1:
            self.ask("error=429")
        self.ask(f"delay-ms={60 * pace:.0f}; token-ms={15 * pace:.0f}; events=30; cached=16", stream=True)
        if self.number % 4 == 3:
            self.ask("error=500")
        # One piece: the lines of threads must not mix.
        said = {"agent": self.number, "calls": self.calls, "errors": self.errors, "tools": self.tools}
        sys.stdout.write(json.dumps(said) + "\n")
        sys.stdout.flush()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("--agents", type=int, default=6)
    parser.add_argument("--pace", type=float, default=1.0, help="how slow everything is")
    parser.add_argument("--wait", action="store_true")
    options = parser.parse_args()
    agents = [Agent(options, number) for number in range(options.agents)]
    _ = [agent.client.chat.completions for agent in agents]
    if options.wait:
        print("waiting", flush=True)
        sys.stdin.readline()
    threads = [threading.Thread(target=agent.run) for agent in agents]
    for number, thread in enumerate(threads):
        thread.start()
        time.sleep(0.05 * options.pace)
    for thread in threads:
        thread.join()
    if options.wait:
        print("done", flush=True)
        sys.stdin.readline()


if __name__ == "__main__":
    main()
