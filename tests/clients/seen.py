"""Prints what a client saw of a call, as a JSON line."""

import json
import sys
import time


def call(case: str, make) -> None:
    started = time.perf_counter_ns()
    error = None
    try:
        make(case)
    except Exception as raised:
        error = raised
    line = {
        "case": case,
        "elapsed_ns": time.perf_counter_ns() - started,
        "error_type": type(error).__name__ if error else None,
        "error_message": str(error) if error else None,
    }
    sys.stdout.write(json.dumps(line) + "\n")
