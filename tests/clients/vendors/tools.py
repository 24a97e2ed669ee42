"""Tools by MCP over HTTP: `tools.py serve [--json]` says its URL, `tools.py call URL` calls them, and
`tools.py late URL` asks for much else before it calls one, on one connection.

The client prints what it saw of each call, as JSON lines.
"""

import argparse
import asyncio
import http.client
import json
import socket
import time


def serve(as_json: bool) -> None:
    import uvicorn
    from mcp import MCPError
    from mcp.server.mcpserver import Context, MCPServer

    server = MCPServer("tools")

    @server.tool()
    def add(a: int, b: int) -> int:
        return a + b

    @server.tool()
    def fail(reason: str) -> str:
        raise ValueError(reason)

    @server.tool()
    def refuse() -> str:
        raise MCPError(-32042, "First you must agree.")

    @server.tool()
    async def slow(context: Context, seconds: float) -> str:
        for step in range(4):
            await context.report_progress(step, 4)
            await asyncio.sleep(seconds / 4)
        return "SECRET-RESULT"

    listener = socket.create_server(("127.0.0.1", 0))
    print(f"http://127.0.0.1:{listener.getsockname()[1]}/mcp", flush=True)
    app = server.streamable_http_app(json_response=as_json)
    uvicorn.Server(uvicorn.Config(app, log_level="error")).run(sockets=[listener])


async def call(url: str, mode: str) -> None:
    from mcp import Client

    async def progressed(progress: float, total: float | None, message: str | None) -> None:
        pass

    async with Client(url, mode=mode) as client:
        await client.list_tools()
        for name, arguments in [
            ("add", {"a": 1, "b": 2}),
            ("fail", {"reason": "SECRET-REASON"}),
            ("nothing", {}),
            ("refuse", {}),
            ("slow", {"seconds": 0.4}),
        ]:
            began = time.perf_counter_ns()
            seen = {"tool": name, "error": None}
            try:
                result = await client.call_tool(name, arguments, progress_callback=progressed)
                seen["is_error"] = result.is_error
            except Exception as error:
                seen["error"] = getattr(error, "code", type(error).__name__)
            seen["elapsed_ns"] = time.perf_counter_ns() - began
            print(json.dumps(seen), flush=True)


def late(url: str) -> None:
    host, _, path = url.removeprefix("http://").partition("/")
    connection = http.client.HTTPConnection(host)
    for _ in range(20):
        connection.request("GET", "/.well-known/oauth-protected-resource")
        connection.getresponse().read()
        time.sleep(0.02)
    body = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "add", "arguments": {"a": 1, "b": 2}}}
    headers = {"Content-Type": "application/json", "Accept": "application/json, text/event-stream"}
    connection.request("POST", f"/{path}", json.dumps(body), headers)
    print(json.dumps({"status": connection.getresponse().status}), flush=True)


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("what", choices=["serve", "call", "late"])
    options.add_argument("url", nargs="?")
    options.add_argument("--json", action="store_true", help="answer with JSON instead of SSE")
    options.add_argument("--mode", default="auto")
    chosen = options.parse_args()
    if chosen.what == "serve":
        serve(chosen.json)
    elif chosen.what == "late":
        late(chosen.url)
    else:
        asyncio.run(call(chosen.url, chosen.mode))


if __name__ == "__main__":
    main()
