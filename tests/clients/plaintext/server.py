"""A server of chat completions without TLS, which says its port; and who asks it.

    server.py serve              answers until its standard input ends
    server.py serve --forked     as above, in a child that inherits the listening socket
    server.py serve --upstream U asks U for each answer
    server.py both N             makes N calls to itself
"""

import argparse
import http.client
import http.server
import json
import os
import signal
import sys
import threading
import urllib.parse

CHAT = "/v1/chat/completions"


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    upstream = None

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if self.path == "/api/chat":
            self.answer_as_ollama(asked)
            return
        if self.upstream:
            asked["model"] = "upstream-" + asked["model"]
            usage = ask(self.upstream, asked["model"], asked["messages"][0]["content"])["usage"]
        else:
            usage = {"prompt_tokens": len(asked["messages"][0]["content"]), "completion_tokens": 7, "total_tokens": 0}
        message = {"role": "assistant", "content": "Here you are."}
        self.answer(
            {
                "id": "chatcmpl-1",
                "object": "chat.completion",
                "model": asked["model"],
                "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
                "usage": usage,
            }
        )

    def answer_as_ollama(self, asked: dict) -> None:
        words = ["Here ", "you ", "are.", ""]
        end = {"done": True, "done_reason": "stop", "prompt_eval_count": 12, "eval_count": 3}
        if not asked.get("stream", True):
            self.answer({"model": asked["model"], "message": {"role": "assistant", "content": "Here you are."}} | end)
            return
        self.send_response(200)
        self.send_header("content-type", "application/x-ndjson")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        for word in words:
            line = {"model": asked["model"], "message": {"role": "assistant", "content": word}, "done": False}
            text = json.dumps(line | (end if not word else {})).encode() + b"\n"
            self.wfile.write(b"%x\r\n%s\r\n" % (len(text), text))
        self.wfile.write(b"0\r\n\r\n")

    def do_GET(self) -> None:
        self.answer({"large": "x" * 100_000})

    def answer(self, document: dict) -> None:
        body = json.dumps(document).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_) -> None:
        pass


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True


def ask(url: str, model: str, prompt: str) -> dict:
    parts = urllib.parse.urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname, parts.port)
    body = json.dumps({"model": model, "messages": [{"role": "user", "content": prompt}]})
    connection.request("POST", CHAT, body, {"content-type": "application/json"})
    answer = connection.getresponse()
    text = answer.read()
    connection.close()
    return json.loads(text) if answer.headers["content-type"] == "application/json" else {}


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("what", choices=["serve", "both", "ask"])
    options.add_argument("argument", nargs="?", help="whom to ask")
    options.add_argument("--count", type=int, default=1)
    options.add_argument("--forked", action="store_true")
    options.add_argument("--upstream")
    options = options.parse_args()
    if options.what == "ask":
        for number in range(options.count):
            ask(options.argument, f"model-{number}", "x" * (number + 1))
        return
    Handler.upstream = options.upstream
    server = Server(("127.0.0.1", 0), Handler)
    url = f"http://127.0.0.1:{server.server_address[1]}"
    if options.what == "both":
        threading.Thread(target=server.serve_forever, daemon=True).start()
        threads = [threading.Thread(target=ask, args=(url, "same", "x" * 5)) for _ in range(options.count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return
    child = os.fork() if options.forked else None
    if child is None or child == 0:
        threading.Thread(target=server.serve_forever, daemon=True).start()
    if child != 0:
        print(url, flush=True)
        sys.stdin.read()
        if child:
            os.kill(child, signal.SIGTERM)
    else:
        signal.pause()


if __name__ == "__main__":
    main()
