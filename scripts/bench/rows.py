"""What the benchmarks share: a clock, what machine it was, lists as options, and files of rows."""

import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path

import fairseq
import torch

HERE = Path(__file__).resolve().parent


def integers(text):
    """A comma-separated option of numbers."""
    return [int(part) for part in text.split(",")]


def names(text):
    """A comma-separated option of words."""
    return [part for part in text.split(",") if part]


def read_rows(path):
    """The rows of a file with one JSON object a line; none where there is no file."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def known_row(rows, cell, names):
    """The last of ``rows`` that has all of ``cell`` and a result for each of ``names``, or None."""
    for row in reversed(rows):
        if all(row.get(key) == value for key, value in cell.items()):
            results = {*row.get("seconds", row.get("state_mib", {})), *row.get("out_of_memory", [])}
            if results.issuperset(names):
                return row
    return None


def append_row(path, row):
    """Add one row to such a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(json.dumps(row) + "\n")


def seconds(function, device):
    """How long ``function`` takes, with all that it starts on a GPU."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    function()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def machine(device):
    """The hardware, the versions, the commit and the command that is running."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    return {
        "device": torch.cuda.get_device_name() if device.type == "cuda" else _processor(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "family": _cpu_family(),
        "threads": torch.get_num_threads(),
        "load": _load(),
        "torch": torch.__version__,
        "fairseq": fairseq.__version__,
        "python": platform.python_version(),
        "commit": commit,
        "command": " ".join([_command(), *sys.argv[1:]]),
    }


def _command():
    """How the script that is running is called from the folder of the checkout."""
    script = Path(sys.argv[0]).resolve()
    return f"-m scripts.bench.{script.stem}" if script.parent == HERE else f"scripts/{script.name}"


def _processor():
    return _of_processor("model name") or platform.processor()


def _cpu_family():
    """``"6.143"``: family and model; None where the system does not say."""
    family, model = _of_processor("cpu family"), _of_processor("model")
    return f"{family}.{model}" if family and model else None


def _of_processor(key):
    """What /proc/cpuinfo says of the first processor, or None."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    pairs = (line.split(":", 1) for line in lines if ":" in line)
    return next((value.strip() for name, value in pairs if name.strip() == key), None)


def _load():
    """Processes that wait for a processor, on average over the last minute; None where the system does not say."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None
