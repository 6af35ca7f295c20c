"""README, docs and the examples' pages: links lead somewhere, tables are what was measured, the front page is short."""

import json
import re

import pytest
from bench import cpu_table, plot
from bench.rows import read_rows
from helpers.commands import ROOT
from PIL import Image

from scripts import tables

PAGES = tables.pages()
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)
FENCED = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
PROGRAMS = r"fairseq-|(?:\.venv/bin/)?python |(?:pip|pre-commit|apt-get|sacrebleu|curl|tensorboard) |scripts/|examples/"
COMMAND = re.compile(rf"(?:[A-Z_]+=\S+ )*(?:{PROGRAMS})\S")
INLINE = re.compile(r"`([^`]+)`")
OF_THIS_PROJECT = re.compile(r"(?:[A-Z]+=\S+ )?\S*python \S|tensorboard |scripts/[\w/]+\.sh|examples/[\w/]+\.sh")
OUTPUT = re.compile(r"<!-- output of .*?<!-- end -->", re.DOTALL)
CODE = re.compile(r"(?:^    .*\n)+", re.MULTILINE)
ROW = re.compile(r"^\| `(?P<command>[^`]+)` \| (?:`(?P<test>tests/[^`]+)` \|)?(?P<note>.*)$", re.MULTILINE)
ROWS = list(ROW.finditer((ROOT / "docs/commands.md").read_text()))
LISTED = [row["command"].replace("\\|", "|") for row in ROWS]
PRINTED_BY_OTHERS = "fairseq-generate --user-dir el_fairseq --task "  # what an example prints while it runs


def ids(path):
    return str(path.relative_to(ROOT))


def anchors(path):
    """The names that GitHub gives to the headings of a page."""
    headings = HEADING.findall(FENCED.sub("", path.read_text()))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_links_lead_somewhere(page):
    for link in LINK.findall(FENCED.sub("", page.read_text())):
        name, _, anchor = link.partition("#")
        if name.startswith(("http://", "https://")):
            continue
        target = (page.parent / name) if name else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_tables_are_what_was_measured(page):
    """If it fails: python -m scripts.tables"""
    assert tables.filled(page.read_text()) == page.read_text()


def test_every_marker_is_understood():
    text = "".join(page.read_text() for page in PAGES)
    assert (
        text.count("<!-- end -->") == len(tables.BLOCK.findall(text)) == len(re.findall("<!-- (?:table|output)", text))
    )


def test_a_table_that_differs_is_noticed(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(tables, "ROOT", tmp_path)
    (tmp_path / "rows.txt").write_text("words\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\n| c |\n|---|\n| 3 |\n")
    page = tmp_path / "README.md"
    page.write_text(
        "<!-- table 2 of rows.txt -->\n<!-- end -->\n"
        "<!-- table 1 of rows.txt, columns 1-1 -->\n\n| a |\n|---|\n| 7 |\n\n<!-- end -->\n"
        "  <!-- output of rows.txt -->\n  <!-- end -->\n"
    )
    tables.text_of.cache_clear()
    with pytest.raises(SystemExit, match="README.md: not what the results say"):
        tables.main(["--check"])
    tables.main([])
    assert (
        "| 3 |\n" in page.read_text()
        and "| a |\n|---|\n| 1 |\n" in page.read_text()
        and "| 7 |" not in page.read_text()
    )
    assert "\n      words\n" in page.read_text()
    tables.main(["--check"])
    assert capsys.readouterr().out.splitlines() == ["written: README.md", "every page has what the results say"]
    page.write_text("<!-- table 3 of rows.txt -->\n<!-- end -->\n")
    with pytest.raises(SystemExit, match="rows.txt has 2 tables, and a page asks for table 3"):
        tables.main(["--check"])


FIGURES = {
    "overview.png": (plot.percentages, cpu_table.ROWS, "overview"),
    "mhe/heads.png": (plot.by_heads, ROOT / "docs/results/mhe/heads.jsonl", "training"),
}


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_shows_what_was_measured(name):
    numbers, rows, kind = FIGURES[name]
    with Image.open(ROOT / "docs/results" / name) as image:
        shown = json.loads(image.info["Description"])
    assert shown == numbers(read_rows(rows)), f"run: python -m scripts.bench.plot {kind} docs/results/{name} {rows}"


def test_the_front_page_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 200


def commands(page):
    """Every command of a page in one line each, without comments: in its blocks of code, and among its words."""
    text = OUTPUT.sub("", FENCED.sub("", page.read_text()))
    lines = [line for block in CODE.findall(text) for line in block.replace("\\\n", " ").splitlines()]
    words = [word for word in INLINE.findall(CODE.sub("", text)) if OF_THIS_PROJECT.match(word)]
    for line in [*lines, *words]:
        command = " ".join(re.sub(r"\s#\s.*", "", line).split())
        if COMMAND.match(command) and not command.startswith(PRINTED_BY_OTHERS):
            yield command


def matches(listed, command):
    """Whether a command is the one that is listed, or the bare name of its script."""
    return listed.startswith(f"{command} ") or re.fullmatch(re.escape(listed).replace(re.escape("..."), ".*"), command)


@pytest.mark.parametrize(
    "page", [page for page in PAGES if page.name not in ("checkpoints.md", "commands.md")], ids=ids
)
def test_every_command_is_run_or_listed_as_not_run(page):
    """In docs/commands.md; those of checkpoints.md have a test of their own."""
    assert [c for c in commands(page) if not any(matches(listed, c) for listed in LISTED)] == []


def test_every_command_that_is_listed_is_printed():
    printed = {command for page in PAGES if page.name != "commands.md" for command in commands(page)}
    assert len(LISTED) > 50
    assert [listed for listed in LISTED if not any(matches(listed, command) for command in printed)] == []


def test_the_tests_that_are_named_are_there_and_know_the_script():
    for row in (row for row in ROWS if row["test"]):
        name, _, function = row["test"].partition("::")
        text = (ROOT / name).read_text()
        assert f"def {function}(" in text, row["test"]
        script = re.search(r"(?:scripts|examples)[/.](?:\w+[/.])*(?!py\b|sh\b)(\w+)", row["command"])
        assert not script or row["note"].strip(" |") or script[1].removeprefix("bench_") in text, row["test"]
