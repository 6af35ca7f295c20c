"""A process that is forked after its parent has decoded: OpenMP's threads are not there, and it would wait for them."""

import logging
import os
import sys

import torch

logger = logging.getLogger(__name__)
_decoded_in = None  # the process; a forked one finds its parent here


def before_decoding():
    """Go on with one thread in such a process, which needs no other; stock would hang."""
    global _decoded_in
    process = os.getpid()
    if _decoded_in not in (None, process) and sys.platform == "linux" and torch.get_num_threads() > 1:
        logger.warning(
            "process %d was forked after process %d had decoded with %d threads, which are lost: it decodes with one "
            "thread. For more, start it by multiprocessing's 'spawn' or 'forkserver'",
            *(process, _decoded_in, torch.get_num_threads()),
        )
        torch.set_num_threads(1)
    _decoded_in = process
