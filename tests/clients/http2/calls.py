"""As told.py, by openai on httpx with HTTP/2: all calls of a client share one connection."""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))

import httpx  # noqa: E402
import sdk  # noqa: E402
import told  # noqa: E402


class Client(sdk.Client):
    def __init__(self, options) -> None:
        def wrap(client):
            make = httpx.AsyncClient if self.asynchronous else httpx.Client
            limits = httpx.Limits(max_connections=1)
            timeout = httpx.Timeout(options.timeout)
            return client.with_options(http_client=make(http2=True, limits=limits, timeout=timeout))

        super().__init__(options, wrap)


if __name__ == "__main__":
    sdk.Client = Client
    told.main()
