"""Agents that run at the same time, in every way in which Python runs things at the same time.

Each prompt says which agent asks, so a record's preview tells to which run it belongs.
"""

import argparse
import asyncio
import concurrent.futures
import json
import multiprocessing
import os
import threading

import openai

options = argparse.ArgumentParser()
options.add_argument("url")
options.add_argument("--by", required=True)
options.add_argument("--agents", type=int, default=20)
options.add_argument("--calls", type=int, default=3)
options.add_argument("--workers", type=int, default=4)
options.add_argument("--delay", type=int, default=40, help="milliseconds that each answer takes")
options = options.parse_args()

BEHAVIOUR = {"x-test-behaviour": f"delay-ms={options.delay}"}
TOOL = {"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object", "properties": {}}}}
KEY = "sk-test-THIS-KEY-IS-SECRET-0123456789"


def client(kind, connections=None):
    import httpx

    http = None
    if connections:
        make = httpx.AsyncClient if kind is openai.AsyncOpenAI else httpx.Client
        http = make(limits=httpx.Limits(max_connections=connections))
    made = kind(base_url=f"{options.url}/v1", api_key=KEY, max_retries=0, default_headers=BEHAVIOUR, http_client=http)
    _ = made.chat.completions
    return made


def messages(agent, call):
    return [
        {"role": "system", "content": "You are a careful agent."},
        {"role": "user", "content": f"[agent {agent}] call {call}"},
    ]


async def ask(shared, agent, call):
    await shared.chat.completions.create(model="gpt-4o", messages=messages(agent, call))


async def agent_async(shared, agent):
    """Questions that have nothing to do with each other: only the task tells that they are one run's."""
    for call in range(options.calls):
        await ask(shared, agent, call)
        await asyncio.sleep(0.001 * (agent % 5))


async def agent_spreading(shared, agent):
    """Plans, asks several things at once, and sums up."""
    await ask(shared, agent, 0)
    await asyncio.gather(*(ask(shared, agent, part) for part in range(1, options.calls)))
    await asyncio.wait_for(ask(shared, agent, options.calls), 30)


async def agents_async(body):
    # Few connections, so that tasks share them.
    shared = client(openai.AsyncOpenAI, connections=10)
    await asyncio.gather(*(body(shared, agent) for agent in range(options.agents)))


def agent_growing(shared, agent):
    """A conversation: each request has what was said before."""
    said = messages(agent, 0)
    for call in range(options.calls):
        answer = shared.chat.completions.create(model="gpt-4o", messages=said)
        said.append({"role": "assistant", "content": answer.choices[0].message.content})
        said.append({"role": "user", "content": f"[agent {agent}] call {call + 1}"})


def agent_with_tools(shared, agent):
    """An agent loop: the model asks for a tool until it answers."""
    said = messages(agent, 0)
    for call in range(options.calls):
        last = call == options.calls - 1
        behaviour = {"x-test-behaviour": "" if last else "tools=2"}
        answer = shared.chat.completions.create(model="gpt-4o", messages=said, tools=[TOOL], extra_headers=behaviour)
        message = answer.choices[0].message
        said.append(message.model_dump(exclude_none=True))
        for tool in message.tool_calls or []:
            threading.Event().wait(0.02)
            said.append({"role": "tool", "tool_call_id": tool.id, "content": f"[agent {agent}] sunny"})


def in_process(agent):
    agent_growing(client(openai.OpenAI), agent)


async def in_threads_of_loop():
    """Synchronous agents, each in a thread that its task has asked for."""
    shared = client(openai.OpenAI)

    async def one(agent):
        for call in range(options.calls):
            await asyncio.to_thread(shared.chat.completions.create, model="gpt-4o", messages=messages(agent, call))

    await asyncio.gather(*(one(agent) for agent in range(options.agents)))


def main():
    by = options.by
    every = range(options.agents)
    if by == "asyncio":
        asyncio.run(agents_async(agent_async))
    elif by == "uvloop":
        import uvloop

        uvloop.run(agents_async(agent_async))
    elif by == "spreading":
        asyncio.run(agents_async(agent_spreading))
    elif by == "to-thread":
        asyncio.run(in_threads_of_loop())
    elif by == "thread-pool":
        shared = client(openai.OpenAI)
        with concurrent.futures.ThreadPoolExecutor(options.workers) as pool:
            list(pool.map(lambda agent: agent_growing(shared, agent), every))
    elif by == "process-pool":
        context = multiprocessing.get_context("fork")
        with concurrent.futures.ProcessPoolExecutor(options.workers, mp_context=context) as pool:
            list(pool.map(in_process, every))
    elif by == "tools":
        shared = client(openai.OpenAI)
        threads = [threading.Thread(target=agent_with_tools, args=(shared, agent)) for agent in every]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    elif by == "run-with-workers":
        # One run: a plan, then workers in threads and in processes.
        shared = client(openai.OpenAI)
        shared.chat.completions.create(model="gpt-4o", messages=messages(0, 0))
        threads = [
            threading.Thread(
                target=shared.chat.completions.create,
                kwargs={"model": "gpt-4o", "messages": messages(0, part)},
            )
            for part in (1, 2)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        child = multiprocessing.get_context("fork").Process(target=in_process, args=(0,))
        child.start()
        child.join()
    else:
        raise SystemExit(f"no way to run agents: {by}")
    print(json.dumps({"pid": os.getpid()}))


if __name__ == "__main__":
    main()
