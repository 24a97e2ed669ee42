"""As calls.py, and does what lines of its input tell it to.

With `--by-line` each call waits for a line; with `--until-told` there are calls until a line comes. The end of the
input is the end of both. With `--say-begun` the first text of a stream prints `begun`.
"""

import pathlib
import select
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parent))

import calls  # noqa: E402
import sdk  # noqa: E402

ENDLESS = ["--count", "1000000"]


class Seen(sdk.Seen):
    """Says that an answer has begun."""

    def read(self, text: str) -> None:
        begun = self.first_ns is not None
        super().read(text)
        if not begun and self.first_ns is not None:
            print("begun", flush=True)


def main() -> None:
    if has("--say-begun"):
        sdk.Seen = Seen
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
