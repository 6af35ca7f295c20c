#!/usr/bin/env python3
"""Run a command and say, when it ends, how long it took and how much memory it needed at most.

The line goes to standard error: "measured: 12.3 s, peak memory 456 MiB". Memory is what the largest process of the
command held in RAM. The exit status is that of the command.
"""

import resource
import subprocess
import sys
import time


def main():
    if len(sys.argv) < 2 or sys.argv[1] in ("-h", "--help"):
        print(f"usage: {sys.argv[0]} COMMAND [ARGUMENT ...]\n\n{__doc__}", end="")
        return 0 if len(sys.argv) > 1 else 2
    start = time.perf_counter()
    status = subprocess.run(sys.argv[1:]).returncode
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss  # KiB on Linux
    print(f"measured: {seconds:.1f} s, peak memory {peak / 1024:,.0f} MiB", file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
