"""What a generation is made of: its options, its checkpoints, its data. Another one is refused by name."""

import hashlib
import json
from pathlib import Path

from sharding.files import write_whole

# How it is run or shown, which changes nothing in what is generated.
INCIDENTAL = {
    "data_buffer_size", "el_tensorboard", "log_file", "log_format", "log_interval", "no_progress_bar", "num_workers",
    "num_workers_valid", "results_path", "tensorboard_logdir", "user_dir",
}  # fmt: skip
SPLITS = ("train", "valid", "test")


class OtherGeneration(Exception):
    """The folder holds results of other options, checkpoints or data."""


def describe(args, units):
    """What ``args``, all of fairseq's, will generate: options as text, files as digests of their contents."""
    options, files = {"units": units}, {}
    for name, value in sorted(vars(args).items()):
        if name in INCIDENTAL or name.startswith(("distributed_", "wandb_", "aim_", "tensorboard_")):
            continue
        found = list(_files_of(name, value, args))
        if found:
            names = [path.name if found[0].parent == path.parent else str(path) for path in found]
            files[name] = {file: _digest(path) for file, path in zip(names, found)}
        else:
            options[name] = json.loads(json.dumps(value, default=str))
    return {"options": options, "files": files}


def write_or_compare(path, description):
    """Make the manifest, or compare with the one that is there.

    Raises:
        OtherGeneration: says what differs.
    """
    if not path.exists():
        write_whole(path, json.dumps(description, indent=1) + "\n")
        return
    differences = list(_differences(json.loads(path.read_text(encoding="utf-8")), description))
    if differences:
        raise OtherGeneration(
            f"{path.parent} holds results of another generation: {'; '.join(differences)}. Give another "
            f"--results-path, or remove that folder to lose them"
        )


def _differences(known, now):
    for name in sorted(known["options"].keys() | now["options"].keys()):
        old, new = known["options"].get(name, "not given"), now["options"].get(name, "not given")
        if old != new:
            yield f"{_option(name)} was {old}, now {new}"
    for name in sorted(known["files"].keys() | now["files"].keys()):
        old, new = known["files"].get(name, {}), now["files"].get(name, {})
        what = {"path": "checkpoint", "data": "data file"}.get(name, f"file of {_option(name)}")
        for file in sorted(old.keys() | new.keys()):
            if old.get(file) != new.get(file):
                how = "is new" if file not in old else "is missing" if file not in new else "has changed"
                yield f"{what} {file} {how}"


def _option(name):
    return f"--{name.replace('_', '-')}"


def _files_of(name, value, args):
    """Files that an option names: one, several between colons, or (the data) those in a folder that are read."""
    for part in value.split(":") if isinstance(value, str) else ():
        path = Path(part)
        if not part:
            continue
        if name == "data" and path.is_dir():
            yield from sorted(each for each in path.iterdir() if each.is_file() and _is_read(each.name, args))
        elif name == "path" and getattr(args, "checkpoint_shard_count", 1) > 1 or not path.exists():
            yield from sorted(path.parent.glob(f"{path.stem}*{path.suffix}")) if name == "path" else ()
        elif path.is_file():
            yield path


def _is_read(file, args):
    """Not the other splits of the data, which can be large."""
    return file.startswith(args.gen_subset) or not file.startswith(SPLITS)


def _digest(path):
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(2**22):
            digest.update(chunk)
    return digest.hexdigest()
