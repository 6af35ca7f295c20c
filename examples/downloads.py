"""Files from public sources, or from a folder of the user; checksums are compared either way."""

import hashlib
import urllib.request
from pathlib import Path


def obtain(sources: dict[str, str], folder: Path, known: dict[str, str], record: Path, download: bool) -> None:
    """Fetch what is missing in ``folder``, and compare checksums.

    Args:
        sources: the address of each file, by its name in ``folder``.
        folder: where the files are, or come.
        known: SHA-256 by name, of files that have a published one.
        record: a file that keeps the checksums of the others from their first time on.
        download: whether a missing file is fetched.

    Raises:
        SystemExit: a file is missing and ``download`` is False, or it is not the one that is known.
    """
    seen = dict(line.split()[::-1] for line in record.read_text().splitlines()) if record.exists() else {}
    for name, address in sources.items():
        path = folder / name
        if not path.exists() and download:
            print(f"downloading {name}", flush=True)
            path.parent.mkdir(parents=True, exist_ok=True)
            partial = path.with_name(f"{path.name}.part")
            urllib.request.urlretrieve(address, partial)
            partial.rename(path)
        if not path.exists():
            raise SystemExit(f"--data-dir {folder}: there is no {name} (from {address})")
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        expected = known.get(name) or seen.get(name)
        if expected is None:
            print(f"{name}: SHA-256 {found}; no checksum of it is published: {record} keeps this one for later runs")
            with record.open("a") as file:
                file.write(f"{found}  {name}\n")
        elif found != expected:
            raise SystemExit(f"{path}: SHA-256 is {found}, not {expected}; remove it and fetch it again")
