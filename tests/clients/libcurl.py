"""Makes calls with a libcurl of any TLS library, by its C interface; prints what it saw as JSON lines.

    libcurl.py URL LIBRARY COUNT
"""

import ctypes
import json
import os
import sys
import time

# curl/curl.h, curl/easy.h
URL, HTTPHEADER, POSTFIELDS, CAINFO, WRITEFUNCTION = 10002, 10023, 10015, 10065, 20011


def main() -> None:
    url, library, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
    curl = ctypes.CDLL(library)
    curl.curl_version.restype = ctypes.c_char_p
    curl.curl_easy_init.restype = ctypes.c_void_p
    curl.curl_slist_append.restype = ctypes.c_void_p
    print(json.dumps({"library": curl.curl_version().decode()}), flush=True)
    # A library that is loaded late is found within milliseconds, or more where the machine is busy.
    time.sleep(1)
    handle = ctypes.c_void_p(curl.curl_easy_init())
    received = bytearray()

    @ctypes.CFUNCTYPE(ctypes.c_size_t, ctypes.POINTER(ctypes.c_char), ctypes.c_size_t, ctypes.c_size_t, ctypes.c_void_p)
    def receive(data, size, number, _):
        received.extend(data[: size * number])
        return size * number

    def option(name: int, value) -> None:
        assert curl.curl_easy_setopt(handle, ctypes.c_int(name), value) == 0

    option(URL, ctypes.c_char_p(f"{url}/v1/chat/completions".encode()))
    option(CAINFO, ctypes.c_char_p(os.environ["SSL_CERT_FILE"].encode()))
    option(WRITEFUNCTION, receive)
    for number in range(count):
        for stream in (False, True):
            case = f"case/{number}/{stream}"
            headers = None
            for header in ("content-type: application/json", f"x-test-case: {case}"):
                headers = ctypes.c_void_p(curl.curl_slist_append(headers, ctypes.c_char_p(header.encode())))
            call = {"model": "gpt-4o", "messages": [{"role": "user", "content": "Hello"}], "stream": stream}
            body = json.dumps(call).encode()
            option(HTTPHEADER, headers)
            option(POSTFIELDS, ctypes.c_char_p(body))
            started = time.perf_counter_ns()
            received.clear()
            result = curl.curl_easy_perform(handle)
            assert result == 0, result
            elapsed = time.perf_counter_ns() - started
            print(json.dumps({"case": case, "elapsed_ns": elapsed, "bytes": len(received)}), flush=True)
    curl.curl_easy_cleanup(handle)


if __name__ == "__main__":
    main()
