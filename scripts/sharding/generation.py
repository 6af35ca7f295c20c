"""fairseq-generate's own loop, fed with units: what it would print for their sentences is their result."""

import io
import logging
import sys
from contextlib import suppress

import numpy as np
import torch
from fairseq.data.iterators import EpochBatchIterator
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from fairseq.tasks import TASK_DATACLASS_REGISTRY, TASK_REGISTRY, register_task
from fairseq_cli.generate import _main as generate_as_fairseq
from sharding.options import read_fairseq
from sharding.units import Plan

from el_fairseq.ops.tuner import TUNER


class NothingLeft(Exception):
    """All units are done, or with other workers."""


class Feed:
    """What the loop iterates over, and the file it prints to. A unit is done when the loop asks for what comes next."""

    def __init__(self, work, worker, seed):
        self.work, self.worker, self.seed = work, worker, seed
        self.printed, self.next = io.StringIO(), None

    def start(self, dataset, loading):
        """Raises NothingLeft: fairseq's loop cannot do without a batch."""
        self.dataset, self.loading = dataset, loading
        self.next = self.work.claim(self.worker)
        if self.next is None:
            raise NothingLeft

    def next_epoch_itr(self, shuffle):
        return self

    def __len__(self):
        return len(self.work.plan.batches) - 1

    def __iter__(self):
        while self.next is not None:
            yield from self._samples(self.work.plan.batches_of(self.next))
            self.work.finish(self.next, self.printed.getvalue())
            self.printed = io.StringIO()
            self.next = self.work.claim(self.worker)

    def _samples(self, batches):
        whole = EpochBatchIterator(self.dataset, self.dataset.collater, batches, **self.loading)
        for batch, sample in zip(batches, whole.next_epoch_itr(shuffle=False)):
            # A batch draws the same numbers whoever generates it, and after whatever. PyTorch takes 32 bits on a CPU.
            seed = int(np.random.SeedSequence([self.seed, batch[0]]).generate_state(1)[0])
            np.random.seed(seed)
            torch.manual_seed(seed)  # of all devices
            yield sample

    def write(self, text):
        return self.printed.write(text)

    def flush(self):
        pass


class FedByUnits:
    """Put before a task: its batches come from ``feed``, an attribute of the class."""

    def get_batch_iterator(self, dataset, *args, num_workers=0, data_buffer_size=0, **kwargs):
        """As the task's, which is asked for its batches where no worker has yet."""
        if not self.feed.work.has_plan:
            whole = super().get_batch_iterator(dataset, *args, **kwargs)
            self.feed.work.propose(
                Plan.cut(whole.frozen_batches, len(dataset), self.feed.work.manifest["options"]["units"])
            )
        dataset.set_epoch(1)
        self.feed.start(dataset, {"num_workers": num_workers, "buffer_size": data_buffer_size})
        return self.feed


def generate(work, worker):
    """Claim units and generate them, until none is left."""
    logging.basicConfig(format="%(asctime)s | %(levelname)s | %(name)s | %(message)s", level="INFO", stream=sys.stderr)
    TUNER.fixed = True  # also for el_ architectures in stock's tasks, which have no option for it
    args = read_fairseq(work.arguments)
    feed = Feed(work, worker, args.seed)
    args.task = _register_fed(args.task, feed)
    with suppress(NothingLeft):
        generate_as_fairseq(convert_namespace_to_omegaconf(args), feed)


def _register_fed(name, feed):
    stock = TASK_REGISTRY[name]
    fed = type(f"{stock.__name__}FedByUnits", (FedByUnits, stock), {"feed": feed})
    register_task(f"{name}_fed_by_units", dataclass=TASK_DATACLASS_REGISTRY.get(name))(fed)
    return f"{name}_fed_by_units"
