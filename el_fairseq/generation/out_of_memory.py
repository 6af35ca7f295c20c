"""Out of memory in a batch: it is split and tried again, so that nothing is lost.

Rows are split and text is not trimmed: what becomes of a sentence can depend on the width of its batch (by rules that
last as long as the longest prefix, by positions of an alignment), and has to stay the same. Features of speech are cut
to the longest utterance of a part, because encoders refuse more; what their convolutions make of the end of an
utterance depends on the padding after it, in stock too.
"""

import logging
import math

import torch
from fairseq.search import DiverseBeamSearch, Sampling

from el_fairseq.convert.el_attention import draws_dropout
from el_fairseq.generation.source import source_and_lengths

logger = logging.getLogger(__name__)
TEXTS = (
    "DefaultCPUAllocator: can't allocate memory",
    "DefaultCPUAllocator: not enough memory",
    "could not create a memory object",  # oneDNN, and what it says where its own buffers or code find no room
    "could not create a primitive",
    "std::bad_alloc",
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
)
ADVICE = (
    "a single sentence{} does not fit into memory, with a source of width {} and up to {} tokens to generate: lower "
    "--max-len-b (and --max-len-a) or --beam, leave out long sources (--max-source-positions, or --truncate-source), "
    "use --fp16 or --bf16, or --el-attention on; --batch-size cannot help any more"
)


def is_out_of_memory(error):
    """Whether this is what torch, or a library below it, raises when memory of a GPU or of the CPU has run out."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or any(text in str(error) for text in TEXTS)


def slice_batch(batch, sentences, rows):
    """The ``rows`` (a slice) of everything in ``batch`` that has ``sentences`` of them, in dictionaries too; views."""
    if isinstance(batch, dict):
        return {key: slice_batch(value, sentences, rows) for key, value in batch.items()}
    if torch.is_tensor(batch) and batch.dim() > 0 and batch.size(0) == sentences:
        return batch[rows]
    if isinstance(batch, (list, tuple)) and len(batch) == sentences:
        return batch[rows]
    return batch


class BatchSplitter:
    """Generates batches, whole or in parts, and learns from each what fits.

    The size of a batch is the number of its tokens, to read and at most to generate: what a decoder keeps grows with
    it. A batch whose size is nearer to one that failed than to one that fitted is split before it fails too.
    """

    def __init__(self):
        self.fitted, self.failed = 0, math.inf  # sizes

    def generate(self, attempt, generator, sample, given):
        """The hypotheses for ``sample`` by ``attempt(sample, **given)``, of all its sentences in their order.

        Args:
            attempt: generates a batch. generator: whose it is. sample: the batch. given: what belongs to it (prefixes,
            constraints); tensors with a row a sentence are split with it.

        Raises:
            torch.OutOfMemoryError: there is no memory for one sentence alone; the message says what can be done.
        """
        source, lengths = source_and_lengths(sample["net_input"], generator.eos, generator.pad)
        max_len = generator.max_len_for(source.size(1), lengths)
        run = _Run(self, attempt, generator, source, max_len)
        # what may be generated follows from the whole batch
        batch = {"sample": sample, "given": {**given, "max_len": max_len}, "numbers": sample.get("id")}
        hypotheses = run.generate(batch, source.size(0))
        run.report(source.size(0))
        return hypotheses

    def succeeded(self, size):
        self.fitted = max(self.fitted, size)
        if self.fitted >= self.failed:
            self.failed = math.inf

    def ran_out(self, size):
        self.failed = size
        if self.fitted >= size:
            self.fitted = 0

    def too_large(self, size):
        """Whether to split without a try."""
        return self.failed < math.inf and size > (self.fitted + self.failed) / 2


class _Run:
    """One batch on its way."""

    def __init__(self, splitter, attempt, generator, source, max_len):
        self.splitter, self.attempt, self.generator, self.max_len = splitter, attempt, generator, max_len
        self.width, self.device = source.size(1), source.device
        self.failures, self.largest = 0, 0  # attempts that failed, sentences that fitted at once

    def generate(self, batch, sentences):
        size = sentences * (self.width + self.max_len)
        if sentences > 1 and self.splitter.too_large(size):
            return self._halves(batch, sentences)
        random = _RandomState(self.device)
        try:
            hypotheses = self.attempt(batch["sample"], **batch["given"])
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            if sentences == 1:
                which = _named(batch["numbers"])
                raise torch.OutOfMemoryError(ADVICE.format(which, self.width, self.max_len)) from error
        else:
            self.largest = max(self.largest, sentences)
            self.splitter.succeeded(size)
            return hypotheses
        # The error is gone, and with its traceback the tensors of the attempt.
        self.failures += 1
        self.splitter.ran_out(size)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        random.restore()
        return self._halves(batch, sentences)

    def _halves(self, batch, sentences):
        halves = (slice(0, sentences // 2), slice(sentences // 2, sentences))
        hypotheses = []
        for rows in halves:
            part = slice_batch(batch, sentences, rows)
            if isinstance(self.generator.search, DiverseBeamSearch):  # it uses them as places in the batch
                part["sample"]["id"] = torch.arange(rows.stop - rows.start, device=self.device)
            _trim_features(part["sample"]["net_input"])
            hypotheses += self.generate(part, rows.stop - rows.start)
        return hypotheses

    def report(self, sentences):
        if self.failures == 0:
            return
        message = "out of memory in a batch of %d sentences, width %d: split, at most %d at once fitted, none is lost"
        if isinstance(self.generator.search, Sampling) or any(map(draws_dropout, self.generator.model.models)):
            message += "; random draws are not those that the whole batch would have had"
        logger.warning(message, sentences, self.width, self.largest)


def _named(numbers):
    """``" (S-7)"``, as fairseq prints it; nothing in ``fairseq-interactive``, whose batches have no numbers."""
    return f" (S-{int(numbers[0])})" if torch.is_tensor(numbers) else ""


def _trim_features(net_input):
    source = net_input.get("src_tokens")
    if source is not None and source.dim() == 3:  # [B, S, features]
        net_input["src_tokens"] = source[:, : int(net_input["src_lengths"].max())]


class _RandomState:
    """Where torch's random numbers stood, on the CPU and on ``device``."""

    def __init__(self, device):
        self.device, self.cpu = device, torch.get_rng_state()
        self.cuda = torch.cuda.get_rng_state(device) if device.type == "cuda" else None

    def restore(self):
        torch.set_rng_state(self.cpu)
        if self.cuda is not None:
            torch.cuda.set_rng_state(self.cuda, self.device)
