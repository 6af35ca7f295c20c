"""Files that are there whole or not at all."""

import os
import uuid


def write_whole(path, text):
    """Write ``text``, replacing what was there: whoever looks, now or after a crash, finds the old or the new file."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with open(temporary, "x", encoding="utf-8", newline="\n") as file:
            file.write(text)
            _to_disk(file)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    _folder_to_disk(path.parent)


def write_first(path, write):
    """``write(file)`` as ``path``, in binary, unless somebody was faster; whether it was us. Safe on shared disks."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with open(temporary, "xb") as file:
            write(file)
            _to_disk(file)
        os.link(temporary, path)
    except FileExistsError:
        return False
    finally:
        temporary.unlink(missing_ok=True)
    return True


def replace(temporary, file, path):
    """Let ``temporary``, open as ``file``, become ``path``."""
    _to_disk(file)
    os.replace(temporary, path)
    _folder_to_disk(path.parent)


def _to_disk(file):
    file.flush()
    os.fsync(file.fileno())


def _folder_to_disk(folder):
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
