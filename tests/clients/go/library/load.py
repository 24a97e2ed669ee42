"""Calls a library that is written in Go."""

import ctypes
import sys

ask = ctypes.CDLL(sys.argv[2]).Ask
ask.argtypes = [ctypes.c_char_p, ctypes.c_int]
print("waiting", flush=True)
sys.stdin.readline()
for _ in range(2):
    assert ask(sys.argv[1].encode(), 3) == 3
