"""Lets names of providers stand for the address of the test's, so that SDKs may be given their real URLs."""

import socket
import urllib.parse


def stand_in(url: str, name: str) -> str:
    """The URL with `name` for its host, which resolves to where it led before."""
    parts = urllib.parse.urlsplit(url)
    resolve = socket.getaddrinfo

    def getaddrinfo(host, *arguments, **options):
        known = host.decode() if isinstance(host, bytes) else host
        return resolve(parts.hostname if known == name else host, *arguments, **options)

    socket.getaddrinfo = getaddrinfo
    return f"{parts.scheme}://{name}:{parts.port}"
