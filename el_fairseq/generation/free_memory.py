"""How much memory there is to take, without a package for it."""

import resource
from pathlib import Path

import torch

CONTAINER = (  # limit and use of a container, and what of its use can be had back, by control groups 2 and 1
    ("sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"),
    ("sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)


def free_memory(device, root="/"):
    """Bytes that new tensors on ``device`` can take, or None where that cannot be told (a CPU without ``/proc``).

    On a GPU what the driver has and what torch's allocator keeps for reuse; on a CPU what Linux calls available,
    within the limits of a container and of ``ulimit -v``. root: where ``proc`` and ``sys`` are.
    """
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    root = Path(root)
    meminfo = root / "proc/meminfo"
    if device.type != "cpu" or not meminfo.exists():
        return None
    kib = dict(line.split(":") for line in meminfo.read_text().splitlines())["MemAvailable"].split()[0]
    return max(0, min([int(kib) * 1024, *_within_container(root), *_within_ulimit(root)]))


def _within_container(root):
    for folder, limit, used, reclaimable in CONTAINER:
        limit, used, stat = (root / folder / name for name in (limit, used, "memory.stat"))
        if limit.exists() and used.exists() and limit.read_text().strip() != "max":
            files = dict(line.split() for line in stat.read_text().splitlines()) if stat.exists() else {}
            yield int(limit.read_text()) - int(used.read_text()) + int(files.get(reclaimable, 0))


def _within_ulimit(root):
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit != resource.RLIM_INFINITY:
        pages = int((root / "proc/self/statm").read_text().split()[0])
        yield limit - pages * resource.getpagesize()
