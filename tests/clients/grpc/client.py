"""A gRPC client over TLS. The arguments: port of the server, and its certificate.

It says how many bytes of messages it has sent and received. It takes a while before the first, as programs
with larger imports do: a library that no agent has seen before is looked through while the program goes on.
"""

import json
import sys
import time

import grpc

UNARY = [(100, 200), (1_000_000, 10), (10, 2_000_000)] + [(50, 60)] * 20
STREAM = [(30_000, 70_000)] * 10


def message(length: int, wanted: int) -> bytes:
    return wanted.to_bytes(4, "big") + b"c" * (length - 4)


time.sleep(1)
with open(sys.argv[2], "rb") as certificate:
    credentials = grpc.ssl_channel_credentials(certificate.read())
options = [("grpc.max_receive_message_length", -1)]
sent = received = 0
with grpc.secure_channel(f"localhost:{sys.argv[1]}", credentials, options) as channel:
    unary = channel.unary_unary("/test.Echo/unary")
    for length, wanted in UNARY:
        answer = unary(message(length, wanted), timeout=60)
        assert answer == b"u" * wanted
    stream = channel.stream_stream("/test.Echo/stream")
    for (_, wanted), answer in zip(STREAM, stream((message(*one) for one in STREAM), timeout=60)):
        assert answer == b"s" * wanted
for length, wanted in UNARY + STREAM:
    sent += length
    received += wanted
print(json.dumps({"version": grpc.__version__, "sent": sent, "received": received}))
