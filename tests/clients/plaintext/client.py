"""Makes calls without TLS by one way or another, and prints what came back as JSON lines."""

import argparse
import asyncio
import ctypes
import http.client
import json
import os
import select
import socket
import sys
import urllib.parse

CHAT = "/v1/chat/completions"


def request(case: str, stream: bool = False, prompt_bytes: int = 0) -> tuple[dict, dict]:
    body = {
        "model": "gpt-4o",
        "messages": [{"role": "user", "content": "Hello" + "x" * prompt_bytes}],
        "stream": stream,
    }
    if stream:
        body["stream_options"] = {"include_usage": True}
    return {"x-test-case": case, "content-type": "application/json"}, body


def raw(url: str, case: str, **options) -> bytes:
    headers, body = request(case, **options)
    text = json.dumps(body).encode()
    headers |= {"host": urllib.parse.urlsplit(url).netloc, "content-length": str(len(text))}
    lines = [f"POST {CHAT} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode() + text


def connect(url: str) -> socket.socket:
    parts = urllib.parse.urlsplit(url)
    return socket.create_connection((parts.hostname, parts.port))


def is_complete(answer: bytes) -> bool:
    head, gap, body = answer.partition(b"\r\n\r\n")
    head = head.lower()
    if not gap:
        return False
    if b"transfer-encoding: chunked" in head:
        return body.endswith(b"0\r\n\r\n")
    length = [line for line in head.split(b"\r\n") if line.startswith(b"content-length:")]
    return len(body) >= int(length[0].split(b":")[1])


def finish(read) -> None:
    answer = b""
    while not is_complete(answer):
        part = read()
        assert part, answer
        answer += part
    print(json.dumps({"status": int(answer.split(b" ", 2)[1])}), flush=True)


def keep_alive(url: str, count: int, wait: bool) -> None:
    """Many calls on one connection, among them requests that are none."""
    parts = urllib.parse.urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname, parts.port)
    connection.connect()
    if wait:
        print("waiting", flush=True)
        sys.stdin.readline()
    for number in range(count):
        headers, body = request(f"keep-alive/{number}", stream=number % 2 == 1)
        connection.request("POST", CHAT, json.dumps(body), headers)
        connection.getresponse().read()
    connection.close()


def unix(path: str) -> None:
    import httpx

    for stream in (False, True):
        with httpx.Client(transport=httpx.HTTPTransport(uds=path)) as client:
            headers, body = request("unix", stream)
            client.post("http://localhost" + CHAT, json=body, headers=headers).raise_for_status()

    async def asynchronously() -> None:
        transport = httpx.AsyncHTTPTransport(uds=path)
        async with httpx.AsyncClient(transport=transport) as client:
            headers, body = request("unix async")
            answer = await client.post("http://localhost" + CHAT, json=body, headers=headers)
            answer.raise_for_status()

    asyncio.run(asynchronously())


def with_aiohttp(url: str) -> None:
    import aiohttp

    async def calls() -> None:
        async with aiohttp.ClientSession() as session:
            for stream in (False, True):
                headers, body = request("aiohttp", stream)
                async with session.post(url + CHAT, json=body, headers=headers) as answer:
                    await answer.read()

    asyncio.run(calls())
    import uvloop

    uvloop.run(calls())


def read_write(url: str) -> None:
    with connect(url) as connection:
        os.write(connection.fileno(), raw(url, "read and write"))
        finish(lambda: os.read(connection.fileno(), 100))


def vectors(url: str) -> None:
    with connect(url) as connection:
        text = raw(url, "vectors")
        parts = [text[:9], b"", text[9:30], *(text[at : at + 7] for at in range(30, len(text), 7))]
        os.writev(connection.fileno(), parts)

        def read() -> bytes:
            buffers = [bytearray(3), bytearray(0), bytearray(50), bytearray(4000)]
            length = os.readv(connection.fileno(), buffers)
            return b"".join(buffers)[:length]

        finish(read)


def messages(url: str) -> None:
    with connect(url) as connection:
        text = raw(url, "messages")
        connection.sendmsg([text[:40], text[40:]])
        finish(lambda: connection.recvmsg(10)[0])


class Vector(ctypes.Structure):
    _fields_ = [("base", ctypes.c_void_p), ("length", ctypes.c_size_t)]


class Message(ctypes.Structure):
    _fields_ = [
        ("name", ctypes.c_void_p),
        ("name_length", ctypes.c_uint),
        ("vectors", ctypes.POINTER(Vector)),
        ("vector_count", ctypes.c_size_t),
        ("control", ctypes.c_void_p),
        ("control_length", ctypes.c_size_t),
        ("flags", ctypes.c_int),
        ("padding", ctypes.c_int),
        ("length", ctypes.c_uint),
    ]


def many_messages(url: str) -> None:
    """sendmmsg and recvmmsg, two messages of two buffers each."""
    libc = ctypes.CDLL(None, use_errno=True)

    def headers(buffers):
        vectors = (Vector * 4)(
            *(Vector(ctypes.cast(one, ctypes.c_void_p), len(one)) for one in buffers)
        )
        messages = (Message * 2)()
        for index in range(2):
            pair = ctypes.cast(ctypes.byref(vectors, index * 2 * ctypes.sizeof(Vector)), ctypes.POINTER(Vector))
            messages[index].vectors = pair
            messages[index].vector_count = 2
        return vectors, messages

    with connect(url) as connection:
        text = raw(url, "many messages")
        parts = [text[:20], text[20:50], text[50:51], text[51:]]
        buffers = [(ctypes.c_char * len(part)).from_buffer_copy(part) for part in parts]
        vectors, sent = headers(buffers)
        assert libc.sendmmsg(connection.fileno(), sent, 2, 0) == 2

        def read() -> bytes:
            buffers = [(ctypes.c_char * length)() for length in (5, 11, 3, 60)]
            vectors, got = headers(buffers)
            select.select([connection], [], [])
            count = libc.recvmmsg(connection.fileno(), got, 2, socket.MSG_DONTWAIT, None)
            assert count > 0, ctypes.get_errno()
            answer = b""
            for index in range(count):
                pair = b"".join(one.raw for one in buffers[2 * index : 2 * index + 2])
                answer += pair[: got[index].length]
            return answer

        finish(read)


def peeking(url: str) -> None:
    """Looks at what has come before it takes it, and waits for more in vain."""
    with connect(url) as connection:
        connection.setblocking(False)
        try:
            connection.recv(1)
        except BlockingIOError:
            pass
        connection.send(raw(url, "peeking"))

        def read() -> bytes:
            select.select([connection], [], [])
            peeked = connection.recv(100, socket.MSG_PEEK)
            assert connection.recv(100, socket.MSG_PEEK)[: len(peeked)] == peeked
            return connection.recv(len(peeked))

        finish(read)


def copies(url: str) -> None:
    """Writes by one descriptor, reads by another, and uses the number of a closed one again."""
    first = connect(url)
    os.write(first.fileno(), raw(url, "copies"))
    number, other = first.fileno(), os.dup(first.fileno())
    first.close()
    second = connect(url)
    assert second.fileno() == number
    second.send(raw(url, "copies, the next"))
    finish(lambda: os.read(other, 4096))
    finish(lambda: second.recv(4096))
    os.dup2(second.fileno(), other)
    os.write(other, raw(url, "copies, the last"))
    finish(lambda: os.read(other, 4096))


def large(url: str) -> None:
    """A request of 8 MB that the socket takes in parts."""
    with connect(url) as connection:
        connection.setblocking(False)
        text, parts = memoryview(raw(url, "large", prompt_bytes=8_000_000)), 0
        while text:
            select.select([], [connection], [])
            try:
                text = text[connection.send(text) :]
                parts += 1
            except BlockingIOError:
                pass
        assert parts > 1
        connection.setblocking(True)
        finish(lambda: connection.recv(4096))


def sends_file(url: str, path: str) -> None:
    """A request whose body the kernel takes from a file."""
    with connect(url) as connection:
        head, _, body = raw(url, "file").partition(b"\r\n\r\n")
        with open(path, "wb") as file:
            file.write(body)
        connection.send(head + b"\r\n\r\n")
        with open(path, "rb") as file:
            assert os.sendfile(connection.fileno(), file.fileno(), 0, len(body)) == len(body)
        finish(lambda: connection.recv(4096))


def no_sockets(url: str, path: str) -> None:
    """Requests and answers that pass through a file, pipes and a datagram socket."""
    text = raw(url, "none") + b"\r\n" * 200
    with open(path, "wb") as file:
        file.write(text)
    with open(path, "rb", buffering=0) as file:
        file.read(100_000)
    for _ in range(2):
        read, write = os.pipe()
        os.write(write, text)
        os.read(read, 100_000)
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    one.send(text)
    other.recv(100_000)


def other_traffic(url: str, count: int) -> None:
    """Requests that are no calls, with large answers, and a call in the end."""
    parts = urllib.parse.urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname, parts.port)
    for _ in range(count):
        connection.request("GET", "/large")
        connection.getresponse().read()
    headers, body = request("at last")
    connection.request("POST", CHAT, json.dumps(body), headers)
    connection.getresponse().read()


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("url")
    options.add_argument("how")
    options.add_argument("--count", type=int, default=1)
    options.add_argument("--path")
    options.add_argument("--wait-for-stdin", action="store_true")
    options = options.parse_args()
    url = options.url
    match options.how:
        case "keep-alive":
            keep_alive(url, options.count, options.wait_for_stdin)
        case "unix":
            unix(options.path)
        case "aiohttp":
            with_aiohttp(url)
        case "syscalls":
            for step in (read_write, vectors, messages, many_messages, peeking, copies):
                step(url)
        case "large":
            large(url)
        case "sends-file":
            sends_file(url, options.path)
        case "no-sockets":
            no_sockets(url, options.path)
        case "other-traffic":
            other_traffic(url, options.count)


if __name__ == "__main__":
    main()
