"""Makes calls in contexts, by the standard library alone, so that any CPython from 3.7 on runs it. For each call prints
in which `contextvars.Context` it was made, as far as the program can know, and from which that was copied."""

import argparse
import asyncio
import contextvars
import http.client
import json
import os
import ssl
import sys
import threading
import urllib.parse

CHAT = "/v1/chat/completions"


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("url")
    options.add_argument("how", choices=sorted(WAYS))
    options.add_argument("--tasks", type=int, default=20)
    options.add_argument("--count", type=int, default=3)
    options.add_argument("--fork", action="store_true", help="in a child")
    options.add_argument("--uvloop", action="store_true")
    options.add_argument("--wait", action="store_true", help="for a line, before the first Context is made")
    options = options.parse_args()
    if options.wait:
        print("ready", flush=True)
        sys.stdin.readline()
    if options.fork:
        child = os.fork()
        if child:
            os.waitpid(child, 0)
            return
    WAYS[options.how](options)


def in_threads(options: argparse.Namespace) -> None:
    """Threads that have entered no Context."""
    threads = [
        threading.Thread(target=calls, args=(options, "thread-%d" % number)) for number in range(options.tasks)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def in_runs(options: argparse.Namespace) -> None:
    """Contexts that are entered by `run`, one in the other."""
    # Has the thread have a Context of its own.
    contextvars.ContextVar("variable").set(1)
    outer = contextvars.copy_context()
    calls(options, "base")

    def in_outer() -> None:
        inner = contextvars.copy_context()
        sibling = contextvars.copy_context()
        # The inner one speaks before the one that it is from.
        inner.run(calls, options, "inner", inner, outer)
        calls(options, "outer", outer, None)
        sibling.run(calls, options, "sibling", sibling, outer)

    outer.run(in_outer)


def in_tasks(options: argparse.Namespace) -> None:
    """Tasks side by side in one thread."""

    async def gather() -> None:
        own = this_context()
        await asyncio.gather(
            *(calls_async(options, "task-%d" % number, parent=own) for number in range(options.tasks))
        )

    run(gather(), options)


def in_nested_tasks(options: argparse.Namespace) -> None:
    """Tasks that make tasks, of which only the innermost make calls, and one that is made by a callback."""

    # They keep their Contexts, whose addresses would otherwise be others' soon.
    kept = []

    def keep(coroutine):
        kept.append(asyncio.ensure_future(coroutine))
        return kept[-1]

    async def innermost(name: str, parent) -> None:
        await calls_async(options, name, parent=parent)

    async def middle(name: str) -> None:
        own = this_context()
        await asyncio.gather(*(keep(innermost("%s/%d" % (name, number), own)) for number in range(2)))

    async def outermost() -> None:
        await asyncio.gather(*(keep(middle("middle-%d" % number)) for number in range(3)))
        loop = asyncio.get_event_loop()
        made = loop.create_future()
        loop.call_soon(lambda: made.set_result(loop.create_task(innermost("callback", None))))
        await (await made)

    run(outermost(), options)


def in_executors(options: argparse.Namespace) -> None:
    """Threads of a pool: with a copy of the task's Context, as `asyncio.to_thread` does, and without."""

    async def work() -> None:
        loop = asyncio.get_event_loop()
        own = this_context()
        await loop.run_in_executor(None, calls, options, "executor")
        copy = contextvars.copy_context()
        await loop.run_in_executor(None, copy.run, calls, options, "copied", copy, own)
        if hasattr(asyncio, "to_thread"):
            await asyncio.to_thread(calls, options, "to_thread")

    run(work(), options)


def run(coroutine, options: argparse.Namespace) -> None:
    if options.uvloop:
        import uvloop

        uvloop.install()
    asyncio.new_event_loop().run_until_complete(coroutine)


def this_context():
    """The Context of the current task, where it can be had (3.12)."""
    task = asyncio.current_task()
    return task.get_context() if hasattr(task, "get_context") else None


def calls(options: argparse.Namespace, name: str, context=None, parent=None) -> None:
    address = urllib.parse.urlsplit(options.url)
    connection = http.client.HTTPSConnection(address.hostname, address.port, context=trust())
    for number in range(options.count):
        connection.request("POST", CHAT, body(), headers(name, number))
        response = connection.getresponse()
        response.read()
        tell(name, number, response.getheader("x-request-id"), context, parent)
    connection.close()


async def calls_async(options: argparse.Namespace, name: str, parent=None) -> None:
    address = urllib.parse.urlsplit(options.url)
    reader, writer = await asyncio.open_connection(
        address.hostname, address.port, ssl=trust(), server_hostname=address.hostname
    )
    for number in range(options.count):
        content = body()
        lines = ["POST %s HTTP/1.1" % CHAT, "host: %s" % address.netloc, "content-length: %d" % len(content)]
        lines += ["%s: %s" % field for field in headers(name, number).items()]
        writer.write("\r\n".join([*lines, "", ""]).encode() + content)
        await writer.drain()
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower().split("\r\n")
        fields = dict(line.split(": ", 1) for line in head[1:] if line)
        await reader.readexactly(int(fields["content-length"]))
        tell(name, number, fields.get("x-request-id"), this_context(), parent)
    writer.close()


def trust() -> ssl.SSLContext:
    return ssl.create_default_context(cafile=os.environ["SSL_CERT_FILE"])


def body() -> bytes:
    return json.dumps({"model": "gpt-4o", "messages": [{"role": "user", "content": "Hello"}]}).encode()


def headers(name: str, number: int) -> dict:
    return {
        "content-type": "application/json",
        "authorization": "Bearer sk-test",
        "x-test-case": "%s/%d" % (name, number),
    }


def tell(name: str, number: int, request, context, parent) -> None:
    line = {
        "case": "%s/%d" % (name, number),
        "request_id": request,
        # An empty Context is false.
        "context": None if context is None else id(context),
        "parent": None if parent is None else id(parent),
    }
    # One write a line: threads must not interleave.
    sys.stdout.write(json.dumps(line) + "\n")


WAYS = {
    "executors": in_executors,
    "nested": in_nested_tasks,
    "runs": in_runs,
    "tasks": in_tasks,
    "threads": in_threads,
}

if __name__ == "__main__":
    main()
