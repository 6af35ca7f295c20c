"""Texts that cannot be read as they are: bytes that are no UTF-8, words beyond the dictionary, data without a sentence.

fairseq-interactive reads standard input as Python opens it. Where that is strict (as the locale says) a wrong byte ends
the command before it has answered the lines above, which Python had read in the same block.
"""

import contextlib
import io
import logging
import os
import re
import sys
from collections.abc import Iterator, Sized

import torch

logger = logging.getLogger(__name__)
UNDECODED = re.compile("[\udc80-\udcff]+")  # what bytes that are no UTF-8 become
CURE = "convert the text by iconv -f ENCODING -t UTF-8"


def prepare_to_read(path: str | None) -> None:
    """Look at ``--input`` before its first line is read, and open standard input for any bytes.

    Args:
        path: of a file; ``-`` is standard input; None where a command reads no text.

    Raises:
        ValueError: a file that is not UTF-8; fairseq opens it strictly.
    """
    if path == "-":
        with contextlib.suppress(AttributeError, io.UnsupportedOperation):  # not a text file; somebody reads it
            if sys.stdin.errors == "strict":
                sys.stdin.reconfigure(errors="surrogateescape")  # type: ignore[union-attr]
    elif path is not None and os.path.isfile(path):
        _check_file(path)


def _check_file(path: str) -> None:
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError as error:
                raise ValueError(
                    f"--input {path}: line {number} is not UTF-8 ({error.reason} 0x{line[error.start]:02x}): {CURE}, "
                    f"or write --input - <{path}, which reads such bytes as unknown words"
                ) from None


def readable(line: str, number: int) -> str:
    """Replace bytes that are no UTF-8 by U+FFFD, an unknown word to any dictionary; a warning says so.

    Args:
        line: as it was read.
        number: of the line, from 0, as fairseq counts in ``S-0``.

    Returns:
        The line that can be encoded.
    """
    if UNDECODED.search(line) is None:
        return line
    logger.warning("the line of S-%d has bytes that are not UTF-8, read as an unknown word: %s", number, CURE)
    return UNDECODED.sub("\ufffd", line)


def refuse_unknown_numbers(sample: dict, dictionary: Sized | None, data: str | None) -> None:
    """Refuse a batch with numbers of words that the dictionary does not have.

    Args:
        sample: the batch.
        dictionary: of the source, or None where the task has none.
        data: the data folder, for the message.

    Raises:
        ValueError: a number is beyond the dictionary.
    """
    tokens = sample["net_input"].get("src_tokens")
    if not torch.is_tensor(tokens) or tokens.is_floating_point() or dictionary is None:
        return
    largest = int(tokens.max())
    if largest >= len(dictionary):
        where = int(tokens.max(dim=1).values.argmax())
        sentence = f"S-{int(sample['id'][where])}" if torch.is_tensor(sample.get("id")) else f"line {where} of a batch"
        raise ValueError(
            f"{sentence} has word number {largest}, and the dictionary in {data} ends at {len(dictionary) - 1}: these "
            "texts were binarised with another one; binarise them with this one (fairseq-preprocess --srcdict)"
        )


@contextlib.contextmanager
def naming_empty_data(split: str, data: str | None) -> Iterator[None]:
    """While data is loaded, say which subset is empty: numpy maps no empty file, and says no more.

    Args:
        split: the subset.
        data: the data folder.

    Raises:
        ValueError: the subset has no sentence.
    """
    try:
        yield
    except ValueError as error:
        if "empty file" not in str(error):
            raise
        raise ValueError(f"{data}: the subset {split!r} has no sentence; choose another one (--gen-subset)") from error
