"""Files are fetched once, and what they are is compared from then on."""

import subprocess

import pytest

from examples.downloads import obtain


@pytest.fixture
def fetch(tmp_path):
    """``fetch(known, download)``: get ``a.txt`` into a folder; its source is ``source.txt`` beside that."""
    (tmp_path / "source.txt").write_text("first")

    def get(known=None, download=False):
        sources = {"a.txt": (tmp_path / "source.txt").as_uri()}
        obtain(sources, tmp_path / "raw", known or {}, tmp_path / "raw/CHECKSUMS", download)

    return get


def test_a_checksum_that_is_not_published_is_that_of_the_first_time(fetch, tmp_path, capsys):
    with pytest.raises(SystemExit, match=r"--data-dir .*raw: there is no a.txt .from file://.*source.txt."):
        fetch()
    fetch(download=True)
    printed = capsys.readouterr().out
    assert "downloading a.txt" in printed and "no checksum of it is published" in printed
    fetch(download=True)
    assert capsys.readouterr().out == ""
    subprocess.run(["sha256sum", "--check", "CHECKSUMS"], cwd=tmp_path / "raw", check=True, capture_output=True)
    (tmp_path / "raw/a.txt").write_text("second")
    with pytest.raises(
        SystemExit, match=r"a.txt: SHA-256 is 16367aac\w+, not a7937b64\w+; remove it and fetch it again"
    ):
        fetch(download=True)


def test_a_published_checksum_counts_more_than_the_first_one_seen(fetch, tmp_path):
    fetch(download=True)
    with pytest.raises(SystemExit, match="not published; remove it"):
        fetch({"a.txt": "published"})
    assert len((tmp_path / "raw/CHECKSUMS").read_text().splitlines()) == 1
