"""Makes calls through pyOpenSSL, whose OpenSSL is linked statically into a module, and through Python's own
ssl in the same process; prints what it saw as JSON lines."""

import argparse
import json
import os
import sys
import time

CHAT = "/v1/chat/completions"


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("url")
    options.add_argument("--count", type=int, default=3)
    options.add_argument("--first", default="", help="folder where packages are looked for first")
    arguments = options.parse_args()
    if arguments.first:
        sys.path.insert(0, arguments.first)
    import urllib3
    import urllib3.contrib.pyopenssl

    # A module that is loaded late is found within milliseconds, or more where the machine is busy.
    time.sleep(1)
    shared = urllib3.PoolManager(ca_certs=os.environ["SSL_CERT_FILE"])
    call(shared, arguments.url, "shared", 0)
    urllib3.contrib.pyopenssl.inject_into_urllib3()
    for number in range(arguments.count):
        # A pool of its own: a connection each, at an address that was used before.
        static = urllib3.PoolManager(ca_certs=os.environ["SSL_CERT_FILE"])
        call(static, arguments.url, "static", number)
        call(static, arguments.url, "static/kept", number)
        call(static, arguments.url, "static/stream", number, stream=True)
        static.clear()
    urllib3.contrib.pyopenssl.extract_from_urllib3()
    call(shared, arguments.url, "shared", 1)


def call(pool, url: str, case: str, number: int, stream: bool = False) -> None:
    started = time.perf_counter_ns()
    body = {"model": "gpt-4o", "messages": [{"role": "user", "content": "Hello"}], "stream": stream}
    response = pool.request(
        "POST",
        url + CHAT,
        body=json.dumps(body).encode(),
        headers={"content-type": "application/json", "x-test-case": f"{case}/{number}"},
    )
    assert response.status == 200, response.data
    elapsed = time.perf_counter_ns() - started
    print(json.dumps({"case": f"{case}/{number}", "elapsed_ns": elapsed}), flush=True)


if __name__ == "__main__":
    main()
