"""What generate_sharded.sh runs, which says how; and, with ``--worker``, what this starts on the same machine."""

import sys

from sharding import driver, worker

if __name__ == "__main__":
    arguments = sys.argv[1:]
    if arguments[:1] == ["--worker"]:
        sys.exit(worker.run_locally(*arguments[1:]))
    sys.exit(driver.main(arguments))
