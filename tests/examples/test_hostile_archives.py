"""Archives whose members would leave the folder they are given: text is read from them, nothing is unpacked."""

import io
import tarfile
import zipfile

import pytest

HOSTILE = ["../../{}", "/{}", "a/../../../{}", "./{}", "..//{}"]


def write_tar(path, texts=(), links=(), folders=()):
    """``texts``: pairs of a name and what is in it; ``links``: names, targets and types."""
    with tarfile.open(path, "w:gz") as tar:
        for name, text in texts:
            info = tarfile.TarInfo(name)
            info.size = len(text)
            tar.addfile(info, io.BytesIO(text.encode()))
        for name, target, kind in links:
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, str(target)
            tar.addfile(info)
        for name in folders:
            info = tarfile.TarInfo(name)
            info.type = tarfile.DIRTYPE
            tar.addfile(info)
    return path


@pytest.fixture
def inside(tmp_path):
    """A folder three deep, and beside its ancestors a file with a secret; nothing but it may be there afterwards."""
    folder = tmp_path / "one/two/three"
    folder.mkdir(parents=True)
    (tmp_path / "secret").write_text("secret")
    yield folder
    outside = {path for path in tmp_path.rglob("*") if folder not in (path, *path.parents)}
    assert outside == {tmp_path / "secret", tmp_path / "one", tmp_path / "one/two"}
    assert (tmp_path / "secret").read_text() == "secret"


@pytest.fixture
def read_translation(load):
    """``archive -> texts`` of the members that are called ``part.en``."""
    return lambda archive: load("translation/prepare").members(archive, r"(.*/)?part\.en")


@pytest.fixture
def read_summarization(load):
    return lambda archive: list(load("summarization/corpora").members(archive, ".en", {"part"}).values())


READERS = ["read_translation", "read_summarization"]


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("name", HOSTILE)
def test_a_name_that_leads_out_of_the_folder_writes_nothing(name, reader, inside, request):
    archive = write_tar(inside / "corpus.tgz", [(name.format("part.en"), "text"), (name.format("evil"), "evil")])
    assert request.getfixturevalue(reader)(archive) == ["text"]
    assert list(inside.iterdir()) == [archive]


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE], ids=["symbolic", "hard", "pipe"])
def test_a_link_reads_nothing_outside(kind, reader, inside, request):
    secret = inside.parents[2] / "secret"
    archive = write_tar(inside / "corpus.tgz", [("b/part.en", "text")], [("a/part.en", secret, kind)], ["c/part.en"])
    assert request.getfixturevalue(reader)(archive) == ["text"]


def test_a_link_alone_is_no_text(read_translation, inside):
    archive = write_tar(inside / "corpus.tgz", links=[("part.en", inside.parents[2] / "secret", tarfile.SYMTYPE)])
    with pytest.raises(SystemExit, match="corpus.tgz: no file in it is called"):
        read_translation(archive)


@pytest.mark.parametrize("name", HOSTILE)
def test_of_a_zip_file_only_the_named_part_is_written(name, load, inside, monkeypatch):
    prepare = load("language_modeling/prepare")
    monkeypatch.setitem(prepare.SOURCES, "wikitext-103", "http://localhost/corpus.zip")
    with zipfile.ZipFile(inside / "corpus.zip", "w") as archive:
        archive.writestr(name.format("evil"), "evil")
        archive.writestr("wikitext-103/wiki.test.tokens", "text")
    assert prepare.lines_of("wikitext-103", "test", inside, download=True, record=inside / "CHECKSUMS") == ["text"]
    assert sorted(path.name for path in inside.iterdir()) == ["CHECKSUMS", "corpus.zip", "test.txt"]
    assert (inside / "test.txt").read_text() == "text"
