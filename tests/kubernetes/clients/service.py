"""A service that makes calls by OpenAI's SDK when it is asked to:

    GET /?count=N            so many calls, one of two as a stream
    GET /?seconds=S&bytes=B  calls for so long, with prompts and answers of so many bytes

It answers with the ids of the calls' answers as JSON.
"""

import http.server
import json
import socket
import time
import urllib.parse

import openai

client = openai.OpenAI(max_retries=0, default_headers={"x-test-case": socket.gethostname()})


def call(stream: bool, prompt: str = "How do you do?", behaviour: str = "") -> str:
    asked = {
        "model": "gpt-4o",
        "messages": [{"role": "user", "content": prompt}],
        "extra_headers": {"x-test-behaviour": behaviour},
    }
    if not stream:
        return client.chat.completions.create(**asked).id
    events = client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True})
    return [event.id for event in events][-1]


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        query = dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(self.path).query))
        ids = [call(stream=number % 2 == 1) for number in range(int(query.get("count", 0)))]
        end = time.monotonic() + float(query.get("seconds", 0))
        size = int(query.get("bytes", 0))
        while time.monotonic() < end:
            ids.append(call(False, "x" * size, f"bytes={size}"))
        body = json.dumps(ids).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


http.server.ThreadingHTTPServer(("", 8080), Handler).serve_forever()
