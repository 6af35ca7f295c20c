"""The checksums in a checkpoint, which ``torch.load`` does not look at: a flipped byte would be a wrong weight."""

import os
import zipfile
from typing import IO, Any

CHUNK = 2**20


def damaged_part(file: Any) -> str | None:
    """Find a part of a checkpoint whose content is not what was written.

    Checkpoints of PyTorch 1.6 and newer are zip files with a CRC-32 for each part; reading them again costs about as
    much as loading. Others, and parts that were saved without one (``set_crc32_options(False)``), are not checked.

    Args:
        file: a path, or a file open for reading in bytes, which stays where it is.

    Returns:
        The name of the first such part, or None.
    """
    if isinstance(file, (str, os.PathLike)):
        with open(file, "rb") as opened:
            return damaged_part(opened)
    if not (hasattr(file, "name") and file.seekable()):
        return None  # in memory, or a stream
    place = file.tell()
    try:
        return _first_damaged(file)
    finally:
        file.seek(place)


def _first_damaged(file: IO[bytes]) -> str | None:
    try:
        archive = zipfile.ZipFile(file)
    except (zipfile.BadZipFile, ValueError):
        return None  # of an older kind, or so damaged that torch notices
    for part in archive.infolist():
        if part.CRC == 0:
            continue
        try:
            with archive.open(part) as content:
                while content.read(CHUNK):
                    pass
        except (zipfile.BadZipFile, ValueError, EOFError, NotImplementedError):
            return part.filename
    return None
