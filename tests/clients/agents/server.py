"""A web service that asks an LLM several times for each request: `server.py KIND URL`."""

import asyncio
import json
import socket
import sys

import openai

kind, url = sys.argv[1:3]
KEY = "sk-test-THIS-KEY-IS-SECRET-0123456789"
BEHAVIOUR = {"x-test-behaviour": "delay-ms=40"}


def client(make):
    made = make(base_url=f"{url}/v1", api_key=KEY, max_retries=0, default_headers=BEHAVIOUR)
    _ = made.chat.completions
    return made


def question(agent, call):
    return {"model": "gpt-4o", "messages": [{"role": "user", "content": f"[agent {agent}] call {call}"}]}


def free_port():
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", 0))
    listener.listen(128)
    return listener


def fastapi(loop, tls):
    import uvicorn
    from fastapi import FastAPI

    app = FastAPI()
    shared = client(openai.AsyncOpenAI)
    synchronous = client(openai.OpenAI)

    @app.post("/agents/{agent}")
    async def run(agent: int):
        await shared.chat.completions.create(**question(agent, 0))
        parts = (shared.chat.completions.create(**question(agent, part)) for part in (1, 2))
        await asyncio.gather(*parts)
        return {"agent": agent}

    @app.post("/threads/{agent}")
    def run_in_thread(agent: int):
        for call in range(3):
            synchronous.chat.completions.create(**question(agent, call))
        return {"agent": agent}

    listener = free_port()
    print(json.dumps({"port": listener.getsockname()[1]}), flush=True)
    settings = {"loop": loop, "log_level": "error"}
    if tls:
        settings |= {"ssl_certfile": sys.argv[3], "ssl_keyfile": sys.argv[4]}
    uvicorn.Server(uvicorn.Config(app, **settings)).run(sockets=[listener])


def flask():
    from flask import Flask
    from werkzeug.serving import make_server

    app = Flask("agents")
    shared = client(openai.OpenAI)

    @app.post("/agents/<int:agent>")
    def run(agent):
        for call in range(3):
            shared.chat.completions.create(**question(agent, call))
        return {"agent": agent}

    server = make_server("127.0.0.1", 0, app, threaded=True)
    print(json.dumps({"port": server.server_port}), flush=True)
    server.serve_forever()


if kind == "flask":
    flask()
else:
    fastapi("uvloop" if "uvloop" in kind else "asyncio", "tls" in kind)
