"""Makes calls with a real SDK and prints what the client saw of each, as JSON lines."""

import sys
import threading
import time

if "--wait-for-stdin" in sys.argv:
    # Before anything of TLS is imported.
    sys.argv.remove("--wait-for-stdin")
    print("waiting", flush=True)
    sys.stdin.readline()

import sdk  # noqa: E402


def main() -> None:
    parser = sdk.parser()
    parser.add_argument("--count", type=int, default=1, help="calls one after the other")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--tasks", type=int, default=0)
    parser.add_argument("--uvloop", action="store_true")
    parser.add_argument("--every", type=float, default=0.0, help="seconds between calls")
    options = parser.parse_args()
    if options.mode.startswith("async"):
        sdk.run(in_tasks(options), options.uvloop)
    elif options.threads:
        in_threads(options)
    else:
        one_by_one(sdk.Client(options), options, options.case)


def one_by_one(client: sdk.Client, options, case: str) -> None:
    for number in range(options.count):
        # One write a line: threads must not interleave.
        sys.stdout.write(sdk.call(client, f"{case}/{number}") + "\n")
        time.sleep(options.every)


def in_threads(options) -> None:
    client = sdk.Client(options)
    threads = [
        threading.Thread(target=one_by_one, args=(client, options, f"{options.case}/{number}"))
        for number in range(options.threads)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


async def in_tasks(options) -> None:
    import asyncio

    client = sdk.Client(options)

    async def task(number: int) -> None:
        for call in range(options.count):
            line = await sdk.call_async(client, f"{options.case}/{number}/{call}")
            sys.stdout.write(line + "\n")

    await asyncio.gather(*(task(number) for number in range(options.tasks or 1)))
    await sdk.close_async(client)


if __name__ == "__main__":
    main()
