"""A worker: it loads the model once, and generates one unit after another until none is left."""

import ctypes
import errno
import os
import signal
import traceback
from contextlib import suppress
from pathlib import Path

from sharding.files import write_whole
from sharding.units import Work

FINISHED, STOPPED, FAILED, NO_ROOM = "finished", "stopped", "failed", "could not write its results"
STATUS = {FAILED: 1, NO_ROOM: 74}  # EX_IOERR: where nothing can be written, the exit status alone says so
CANNOT_WRITE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)


class Stopped(BaseException):
    """Asked to stop: by the driver, or by SLURM that needs the machine."""


def run_locally(folder, name):
    """``run``, but asked to stop when the driver dies, which has started this process."""
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
    return run(folder, name)


def run(folder, name):
    """Generate; 0, or ``STATUS``. How it ended is then in the file ``end_of(folder, name)``, if there is room."""
    folder = Path(folder)
    log = os.open(log_of(folder, name), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    os.dup2(log, 1)
    os.dup2(log, 2)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2):  # SIGUSR2: submitit's, before time is up
        signal.signal(number, _stop)
    end = FAILED
    try:
        from sharding.generation import generate  # here: it takes seconds, and may fail

        work = Work(folder)
        work.release_all_of(name)  # SLURM starts a job again that had to make room
        end_of(folder, name).unlink(missing_ok=True)
        generate(work, name)
        end = FINISHED
    except Stopped:
        end = STOPPED
        print("stopped", flush=True)
    except BaseException as error:
        if isinstance(error, OSError) and error.errno in CANNOT_WRITE:
            end = NO_ROOM
        with suppress(OSError):
            traceback.print_exc()
    with suppress(OSError):
        write_whole(end_of(folder, name), end)
    return STATUS.get(end, 0)


def log_of(folder, name):
    return folder / f"worker-{name}.log"


def end_of(folder, name):
    return folder / f"worker-{name}.end"


def _stop(number, frame):
    signal.signal(number, signal.SIG_IGN)  # once is enough
    raise Stopped
