"""An ASGI application that answers chat completions as a stream, and says when it is ready."""

import json
import sys

import uvicorn


async def application(scope, receive, send) -> None:
    if scope["type"] != "http":
        return
    body, more = b"", True
    while more:
        event = await receive()
        body += event.get("body", b"")
        more = event.get("more_body", False)
    model = json.loads(body)["model"]
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
    for index in range(5):
        delta = {"content": f"word {index} "}
        choice = {"index": 0, "delta": delta, "finish_reason": "stop" if index == 4 else None}
        event = {"object": "chat.completion.chunk", "model": model, "choices": [choice]}
        if index == 4:
            event["usage"] = {"prompt_tokens": 11, "completion_tokens": 5, "total_tokens": 16}
        text = f"data: {json.dumps(event)}\n\n".encode()
        await send({"type": "http.response.body", "body": text, "more_body": True})
    await send({"type": "http.response.body", "body": b"data: [DONE]\n\n"})


class Server(uvicorn.Server):
    async def startup(self, sockets=None) -> None:
        await super().startup(sockets)
        address = self.servers[0].sockets[0].getsockname()
        print(f"http://127.0.0.1:{address[1]}", flush=True)


if __name__ == "__main__":
    loop = sys.argv[1]
    Server(uvicorn.Config(application, port=0, loop=loop, log_level="error")).run()
