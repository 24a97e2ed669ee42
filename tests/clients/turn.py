"""One connection that carries something else first, and calls to an LLM later; prints JSON lines."""

import argparse
import http.client
import json
import ssl
import time
import urllib.parse


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("url")
    options.add_argument("--secret", default="secret", help="part of what is sent before")
    options.add_argument("--pause", type=float, default=0.1, help="seconds after what is sent before")
    options.add_argument("--connections", type=int, default=1)
    arguments = options.parse_args()
    for _ in range(arguments.connections):
        turn(arguments)


def turn(arguments: argparse.Namespace) -> None:
    url = urllib.parse.urlsplit(arguments.url)
    connection = http.client.HTTPSConnection(
        url.hostname, url.port, context=ssl.create_default_context()
    )
    for number in range(3):
        body = f"{arguments.secret} {number}".encode() * 100
        connection.request("POST", "/upload", body, {"Content-Type": "text/plain"})
        print(json.dumps({"status": answer(connection)}), flush=True)
        time.sleep(arguments.pause)
    call = {"model": "gpt-4o", "messages": [{"role": "user", "content": "Hello"}]}
    for _ in range(2):
        connection.request(
            "POST",
            "/v1/chat/completions",
            json.dumps(call),
            {"Content-Type": "application/json", "Authorization": "Bearer test"},
        )
        print(json.dumps({"status": answer(connection)}), flush=True)


def answer(connection: http.client.HTTPSConnection) -> int:
    response = connection.getresponse()
    response.read()
    return response.status


if __name__ == "__main__":
    main()
