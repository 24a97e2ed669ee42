"""A gRPC server that answers with as many bytes as it is asked for. The arguments: certificate and key.

It says its port, and answers until its standard input ends.
"""

import sys
from concurrent import futures

import grpc


def wanted(request: bytes) -> int:
    return int.from_bytes(request[:4], "big")


def stream(requests, context):
    for request in requests:
        yield b"s" * wanted(request)


METHODS = {
    "unary": grpc.unary_unary_rpc_method_handler(lambda request, context: b"u" * wanted(request)),
    "stream": grpc.stream_stream_rpc_method_handler(stream),
}

with open(sys.argv[1], "rb") as certificate, open(sys.argv[2], "rb") as key:
    credentials = grpc.ssl_server_credentials([(key.read(), certificate.read())])
server = grpc.server(futures.ThreadPoolExecutor(4), options=[("grpc.max_receive_message_length", -1)])
server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Echo", METHODS),))
port = server.add_secure_port("127.0.0.1:0", credentials)
server.start()
print(port, flush=True)
sys.stdin.read()
server.stop(None)
