"""A process without TLS whose children make the calls: one that is forked, one that is executed."""

import multiprocessing
import subprocess
import sys


def child(arguments: list[str]) -> None:
    sys.argv[1:] = arguments
    import calls

    calls.main()


def main() -> None:
    if "--wait-for-stdin" in sys.argv:
        sys.argv.remove("--wait-for-stdin")
        print("waiting", flush=True)
        sys.stdin.readline()
    arguments = sys.argv[1:]
    forked = multiprocessing.get_context("fork").Process(target=child, args=([*arguments, "--case", "forked"],))
    forked.start()
    forked.join()
    script = __file__.replace("children.py", "calls.py")
    subprocess.run([sys.executable, script, *arguments, "--case", "executed"], check=True)


if __name__ == "__main__":
    main()
