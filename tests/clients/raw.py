"""Speaks HTTP/1.1 by hand or with plain tools, as no SDK does, and prints what it saw as JSON lines."""

import argparse
import http.client
import io
import json
import os
import select
import socket
import ssl
import subprocess
import sys
import time
import urllib.parse
from collections.abc import Iterable

CHAT = "/v1/chat/completions"


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("url")
    options.add_argument("steps", nargs="+", choices=sorted(STEPS))
    options.add_argument("--behaviour", default="")
    options.add_argument("--wait-for-stdin", action="store_true", help="with the connection open")
    arguments = options.parse_args()
    for step in arguments.steps:
        connection = Connection(arguments.url, arguments.behaviour)
        if arguments.wait_for_stdin:
            print("waiting", flush=True)
            sys.stdin.readline()
        STEPS[step](connection)
        print(json.dumps({"step": step, "answers": connection.answers}), flush=True)


class Connection:
    """A TLS connection on which any bytes can be sent."""

    def __init__(self, url: str, behaviour: str) -> None:
        self.url = url
        self.behaviour = behaviour
        self.answers: list[dict] = []
        self.connect()

    def connect(self) -> None:
        address = urllib.parse.urlsplit(self.url)
        plain = socket.create_connection((address.hostname, address.port), timeout=30)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        context = ssl.create_default_context(cafile=os.environ["SSL_CERT_FILE"])
        self.socket = context.wrap_socket(plain, server_hostname=address.hostname)
        self.reader = self.socket.makefile("rb")

    def send(self, *parts: bytes) -> None:
        for part in parts:
            self.socket.sendall(part)

    def response(self, method: str = "POST") -> http.client.HTTPResponse:
        """The next answer; what follows it stays unread."""
        response = http.client.HTTPResponse(Shared(self.reader), method=method)
        response.begin()
        return response

    def answer(self, case: str, method: str = "POST") -> None:
        """Reads an answer and keeps what matters of it."""
        response = self.response(method)
        body = response.read()
        seen = {
            "case": case,
            "status": response.status,
            "request_id": response.getheader("x-request-id"),
            "length": response.getheader("content-length"),
            "text": text(body),
        }
        self.answers.append(seen)

    def head(self, case: str, *more: str, method: str = "POST", path: str = CHAT) -> bytes:
        lines = [
            f"{method} {path} HTTP/1.1",
            "Host: localhost",
            "Content-Type: application/json",
            f"X-Test-Case: {case}",
            f"X-Test-Behaviour: {self.behaviour}",
            *more,
        ]
        return ("\r\n".join(lines) + "\r\n\r\n").encode()

    def chat(self, case: str, prompt: str = "Hello, 漢字", **more: object) -> bytes:
        """A whole request."""
        content = body(prompt, **more)
        return self.head(case, f"Content-Length: {len(content)}") + content


class Shared:
    """Lets several answers be read from one buffer."""

    def __init__(self, reader: io.BufferedReader) -> None:
        self.reader = reader

    def makefile(self, _mode: str) -> "Shared":
        return self

    def readline(self, *limit: int) -> bytes:
        return self.reader.readline(*limit)

    def read(self, *size: int) -> bytes:
        return self.reader.read(*size)

    def readinto(self, buffer: memoryview) -> int:
        return self.reader.readinto(buffer)

    def read1(self, *size: int) -> bytes:
        return self.reader.read1(*size)

    def flush(self) -> None:
        pass

    def close(self) -> None:
        pass


def body(prompt: str = "Hello, 漢字", **more: object) -> bytes:
    document = {"model": "gpt-4o", "messages": [{"role": "user", "content": prompt}], **more}
    return json.dumps(document, ensure_ascii=False).encode()


def text(answer: bytes) -> str:
    """The text of a chat completion, of a stream of it, or of a Gemini stream that is an array."""
    if answer.startswith((b"data:", b":")):
        events = (line[6:] for line in answer.splitlines() if line.startswith(b"data: {"))
        choices = (choice for event in events for choice in json.loads(event)["choices"])
        return "".join(choice["delta"].get("content", "") for choice in choices)
    try:
        document = json.loads(answer)
    except ValueError:
        return ""
    if isinstance(document, list):
        parts = (chunk["candidates"][0]["content"]["parts"] for chunk in document)
        return "".join(part.get("text", "") for of_chunk in parts for part in of_chunk)
    if "choices" not in document:
        return ""
    return document["choices"][0]["message"]["content"] or ""


def cut(content: bytes, size: int) -> Iterable[bytes]:
    return (content[start : start + size] for start in range(0, len(content), size))


def array(connection: Connection) -> None:
    """A Gemini stream as one JSON array, without `alt=sse`."""
    content = json.dumps({"contents": [{"role": "user", "parts": [{"text": "Hello"}]}]}).encode()
    path = "/v1beta/models/gemini-2.5-flash:streamGenerateContent?key=secret"
    connection.send(connection.head("array", f"Content-Length: {len(content)}", path=path) + content)
    connection.answer("array")


def by_bytes(connection: Connection) -> None:
    """A request of which every byte is a record of its own."""
    connection.send(*cut(connection.chat("by_bytes"), 1))
    connection.answer("by_bytes")


def chunked_upload(connection: Connection) -> None:
    """A request in the chunked framing, of tiny chunks, with an extension."""
    connection.send(connection.head("chunked_upload", "Transfer-Encoding: chunked"))
    for part in cut(body("A prompt in chunks: naïve 漢字 😀"), 7):
        connection.send(f"{len(part):x};note=1\r\n".encode() + part + b"\r\n")
    connection.send(b"0\r\n\r\n")
    connection.answer("chunked_upload")


def close_delimited(connection: Connection) -> None:
    """Answers, one of them a stream, that end with the connection."""
    connection.behaviour = "framing=close"
    connection.send(connection.chat("close_delimited/0"))
    connection.answer("close_delimited/0")
    connection.connect()
    connection.send(connection.chat("close_delimited/1", stream=True))
    connection.answer("close_delimited/1")


def curl(connection: Connection) -> None:
    """The command line tool, whose library is its own."""
    command = ["curl", "--silent", "--show-error", "--cacert", os.environ["SSL_CERT_FILE"], connection.url + CHAT]
    for header in ("content-type: application/json", "x-test-case: curl", f"x-test-behaviour: {connection.behaviour}"):
        command += ["--header", header]
    result = subprocess.run([*command, "--data-binary", "@-"], input=body(), capture_output=True, check=True)
    connection.answers.append({"case": "curl", "status": 200, "text": text(result.stdout)})


def early(connection: Connection) -> None:
    """The answer comes before the body is sent, and most of the body never is."""
    content = body("x" * 1_000_000)
    connection.behaviour = "error=413; early; close"
    connection.send(connection.head("early", f"Content-Length: {len(content)}") + content[:1000])
    connection.answer("early")


def expect(connection: Connection) -> None:
    """The body waits until the server wants it."""
    content = body("I wait. " * 1000)
    connection.send(connection.head("expect", "Expect: 100-continue", f"Content-Length: {len(content)}"))
    interim = connection.reader.readline()
    assert b" 100 " in interim, interim
    assert connection.reader.readline() == b"\r\n"
    connection.send(content)
    connection.answer("expect")


def keep_alive(connection: Connection) -> None:
    """Three calls among traffic that is none, on one connection."""
    connection.send(connection.head("head", method="HEAD", path="/v1/models"))
    connection.answer("head", "HEAD")
    connection.send(connection.chat("keep_alive/0"))
    connection.answer("keep_alive/0")
    connection.send(connection.head("nothing", method="GET", path="/nothing"))
    connection.answer("nothing", "GET")
    connection.send(connection.chat("keep_alive/1"))
    connection.answer("keep_alive/1")
    connection.send(connection.head("models", method="GET", path="/v1/models"))
    connection.answer("models", "GET")
    connection.send(connection.chat("keep_alive/2"))
    connection.answer("keep_alive/2")


def odd_framing(connection: Connection) -> None:
    """Chunks with extensions, and trailers, of an answer that is no stream and of one that is."""
    connection.behaviour = "framing=chunked; chunk-extensions; trailers"
    for case, stream in (("odd_framing/0", False), ("odd_framing/1", True)):
        connection.send(connection.chat(case, stream=stream))
        connection.answer(case)


def other_path(connection: Connection) -> None:
    """A path that is nobody's, of a proxy perhaps."""
    content = body()
    length = f"Content-Length: {len(content)}"
    connection.send(connection.head("other_path", length, path="/proxy/team-a/chat/completions") + content)
    connection.answer("other_path")


def pipelined(connection: Connection) -> None:
    """Two requests before the first answer, in two writes that do not end where requests do."""
    cases = ["pipelined/0", "pipelined/1"]
    everything = b"".join(connection.chat(case, prompt=case * 3) for case in cases)
    middle = len(everything) // 3
    connection.send(everything[:middle], everything[middle:])
    for case in cases:
        connection.answer(case)


def slow_reader(connection: Connection) -> None:
    """A large request through a small buffer: most writes must be repeated."""
    connection.socket.setblocking(False)
    connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    rest = memoryview(connection.chat("slow_reader", prompt="x" * 4_000_000))
    while rest:
        try:
            rest = rest[connection.socket.send(rest) :]
        except ssl.SSLWantWriteError:
            select.select([], [connection.socket], [])
    connection.socket.setblocking(True)
    connection.answer("slow_reader")


def slow_writer(connection: Connection) -> None:
    """A request that takes a while to send: it counts for the latency."""
    for part in cut(connection.chat("slow_writer"), 80):
        connection.send(part)
        time.sleep(0.1)
    connection.answer("slow_writer")


def upgrade(connection: Connection) -> None:
    """The offer of another protocol, which the server does not take."""
    content = body()
    headers = ["Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQAAP__"]
    connection.send(connection.head("upgrade", *headers, f"Content-Length: {len(content)}") + content)
    connection.answer("upgrade")


STEPS = {
    step.__name__: step
    for step in (
        array,
        by_bytes,
        chunked_upload,
        close_delimited,
        curl,
        early,
        expect,
        keep_alive,
        odd_framing,
        other_path,
        pipelined,
        slow_reader,
        slow_writer,
        upgrade,
    )
}

if __name__ == "__main__":
    main()
