"""Drives a given libssl directly: SSL_write and SSL_read, which Python's ssl module does not use."""

import ctypes
import json
import os
import socket
import sys
import time
from pathlib import Path
from urllib.parse import urlsplit

SET_TLSEXT_HOSTNAME = 55
VERIFY_PEER = 1


def main() -> None:
    address = urlsplit(sys.argv[1])
    library = Path(sys.argv[2])
    (crypto,) = library.parent.glob("libcrypto*.so.1.1")
    ctypes.CDLL(str(crypto), ctypes.RTLD_GLOBAL)
    ssl = ctypes.CDLL(str(library))
    print("waiting", flush=True)
    sys.stdin.readline()
    for name in ("TLS_client_method", "SSL_CTX_new", "SSL_new"):
        getattr(ssl, name).restype = ctypes.c_void_p
    context = ctypes.c_void_p(ssl.SSL_CTX_new(ctypes.c_void_p(ssl.TLS_client_method())))
    assert ssl.SSL_CTX_load_verify_locations(context, os.environ["SSL_CERT_FILE"].encode(), None) == 1
    ssl.SSL_CTX_set_verify(context, VERIFY_PEER, None)
    connection = ctypes.c_void_p(ssl.SSL_new(context))
    plain = socket.create_connection((address.hostname, address.port))
    ssl.SSL_set_fd(connection, plain.fileno())
    ssl.SSL_ctrl(connection, SET_TLSEXT_HOSTNAME, 0, address.hostname.encode())
    assert ssl.SSL_connect(connection) == 1
    for stream in (False, True):
        started = time.perf_counter_ns()
        body = json.dumps(
            {"model": "gpt-4o", "messages": [{"role": "user", "content": "Hi"}], "stream": stream}
        ).encode()
        head = (
            f"POST /v1/chat/completions HTTP/1.1\r\nhost: {address.netloc}\r\n"
            f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        ).encode()
        request = head + body
        assert ssl.SSL_write(connection, request, len(request)) == len(request)
        answer = b""
        end = b"0\r\n\r\n" if stream else b"}"
        buffer = ctypes.create_string_buffer(4096)
        while not (answer.endswith(end) and (stream or answer.count(b"{") == answer.count(b"}"))):
            length = ssl.SSL_read(connection, buffer, len(buffer))
            assert length > 0
            answer += buffer.raw[:length]
        print(json.dumps({"elapsed_ns": time.perf_counter_ns() - started}), flush=True)
    ssl.SSL_shutdown(connection)
    ssl.SSL_free(connection)


if __name__ == "__main__":
    main()
