"""Commands that are quick to start, for tests of the processes that run them."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path


def main(argv: list[str]) -> int:
    """``sleep``, ``fail``, ``raise``, ``die`` or ``count FILE``; anything else succeeds."""
    print("told", *argv, os.environ.get("SHARE", ""), os.getpid())
    if argv[0] == "count":
        with Path(argv[1]).open("a") as file:
            file.write(f"{os.getpid()} {os.environ['SHARE']} {sys.argv[1:] == argv}\n")
    elif argv[0] == "fail":
        print("train.py: --data.n 0: give at least 1", file=sys.stderr)
        return 2
    elif argv[0] == "raise":
        raise ValueError("of no kind that we know")
    elif argv[0] == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    elif argv[0] == "sleep":
        try:
            Path(argv[1]).touch()
            time.sleep(60)
        except KeyboardInterrupt:
            Path(argv[1]).write_text("interrupted")
            return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
