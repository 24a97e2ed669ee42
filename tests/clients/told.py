"""As calls.py, and does what lines of its input tell it to; it says when the first text of an answer came.

With `--by-line` each call waits for a line; with `--until-told` there are calls until a line comes. The end of the
input is the end of both. With `--say-begun` the first text of an answer prints `begun`.
"""

import json
import pathlib
import select
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).parent))

import calls  # noqa: E402
import sdk  # noqa: E402

ENDLESS = ["--count", "1000000"]


class Seen(sdk.Seen):
    """What the client saw of a call, and when the first text of the answer came."""

    first_text_ns = None
    says_begun = False

    def __setattr__(self, name: str, value) -> None:
        if name == "text" and value and self.first_text_ns is None:
            self.first_text_ns = time.perf_counter_ns() - self.started
            if self.says_begun:
                print("begun", flush=True)
        super().__setattr__(name, value)

    def line(self) -> str:
        return json.dumps({**json.loads(super().line()), "first_text_ns": self.first_text_ns})


def main() -> None:
    sdk.Seen = Seen
    if has("--say-begun"):
        Seen.says_begun = True
    if has("--by-line"):
        sys.argv += ENDLESS
        sdk.call = if_told(sdk.call, lambda: sys.stdin.readline() != "")
    if has("--until-told"):
        sys.argv += ENDLESS
        sdk.call = if_told(sdk.call, lambda: not select.select([sys.stdin], [], [], 0)[0])
    calls.main()


def has(option: str) -> bool:
    """Whether an option is given, which the others shall not see."""
    if option not in sys.argv:
        return False
    sys.argv.remove(option)
    return True


def if_told(call, goes_on):
    def told(client, case: str) -> str:
        if not goes_on():
            sys.exit()
        return call(client, case)

    return told


if __name__ == "__main__":
    main()
