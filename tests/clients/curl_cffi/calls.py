"""Calls by curl_cffi, which carries a curl with BoringSSL. The arguments: URL of the provider, and its certificate."""

import sys

from curl_cffi import CurlHttpVersion, requests

url, certificate = sys.argv[1:]
options = {"include_usage": True}
for more in ({}, {"stream": True, "stream_options": options}, {"temperature": 0.5}):
    answer = requests.post(
        f"{url}/v1/chat/completions",
        json={"model": "gpt-4o", "messages": [{"role": "user", "content": "漢字 😀"}], **more},
        headers={"authorization": "Bearer sk-test-THIS-KEY-IS-SECRET", "x-test-behaviour": "cached=2"},
        http_version=CurlHttpVersion.V1_1,
        impersonate="chrome",
        verify=certificate,
        timeout=60,
    )
    answer.raise_for_status()
    assert answer.content
