"""generate_sharded.sh with fairseq itself: the merged output is what one process prints, and can be scored."""

import os
import re
import subprocess
import sys
import threading
from multiprocessing.connection import Listener

import pytest
from commands import ROOT, fork, generate, lines_of, train
from fairseq_cli import score

SCRIPT = ROOT / "scripts/generate_sharded.sh"
CLIENT = f"""#!{sys.executable}
import os, sys
from multiprocessing.connection import Client
with Client(os.environ["FORKS"]) as connection:
    connection.send((sys.argv[1:], os.readlink("/proc/self/fd/1")))
    sys.exit(connection.recv())
"""
SEARCH = "--task el_translation --beam 2 --num-workers 0"
pytestmark = pytest.mark.slow


@pytest.fixture
def environment(tmp_path):
    """With a fairseq-generate on PATH that need not import fairseq: this process forks the real one for it."""
    (tmp_path / "fairseq-generate").write_text(CLIENT)
    (tmp_path / "fairseq-generate").chmod(0o755)

    def answer(connection):
        arguments, out = connection.recv()
        connection.send(fork("fairseq-generate", arguments, os.devnull, out, ROOT))

    def serve():
        while connection := listener.accept():
            threading.Thread(target=answer, args=(connection,)).start()

    with Listener() as listener:
        threading.Thread(target=serve, daemon=True).start()
        path = f"{tmp_path}:{os.environ['PATH']}"
        yield {**os.environ, "PATH": path, "FORKS": listener.address, "CUDA_VISIBLE_DEVICES": ""}


@pytest.fixture(scope="module")
def model(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    train(data, folder, "--arch transformer_tiny --share-all-embeddings")
    return folder / "checkpoint_last.pt"


def sharded(data, model, results, environment, shards):
    options = f"{data} --user-dir el_fairseq --path {model} --batch-size 16 --nbest 2 --max-len-b 20 {SEARCH}"
    command = [SCRIPT, *f"{options} --num-shards {shards} --results-path {results}".split()]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)


def score_as_documented(merged, monkeypatch, capsys):
    """The commands that --help gives, up to fairseq-score: the line it prints."""
    documented = subprocess.run([SCRIPT, "--help"], capture_output=True, text=True, check=True).stdout
    lines = re.findall(r"^    (\S.*)", documented.replace("DIR/generate-test.txt", str(merged)), re.MULTILINE)
    assert [line.split()[0] for line in lines] == ["awk", "awk", "fairseq-score", "sacrebleu"]
    subprocess.run(["bash", "-ec", "\n".join(lines[:2])], check=True, cwd=merged.parent)
    monkeypatch.chdir(merged.parent)
    monkeypatch.setattr(sys, "argv", lines[2].partition("#")[0].split())
    score.cli_main()
    return capsys.readouterr().out.splitlines()[-1]


def test_merged_output_is_that_of_one_process(data, model, environment, tmp_path, monkeypatch, capsys):
    """Three shards of four batches; and five, one of which is empty, where fairseq ends with a ZeroDivisionError."""
    whole = generate(data, model, SEARCH)
    in_order = sorted(lines_of(whole), key=lambda line: int(re.match(r"\w-(\d+)", line).group(1)))
    assert len(in_order) == 60 * 8
    for shards in (3, 5):
        done = sharded(data, model, tmp_path, environment, shards)
        assert done.returncode == 0, done.stdout + done.stderr
        assert (tmp_path / "generate-test.txt").read_text().splitlines() == in_order
        assert f"60 sentences of {shards} shards in " in done.stdout.splitlines()[-1]
    bleu = score_as_documented(tmp_path / "generate-test.txt", monkeypatch, capsys)
    assert bleu.startswith("BLEU4 = ") and f"Generate test with beam=2: {bleu}\n" in whole


def test_a_damaged_checkpoint_leaves_nothing(data, model, environment, tmp_path):
    damaged = tmp_path / "damaged.pt"
    damaged.write_bytes(model.read_bytes()[:-100])
    done = sharded(data, damaged, tmp_path, environment, 2)
    assert done.returncode == 1 and re.search(r"shard [01] of 2 failed \(exit status 1\)", done.stderr)
    assert "truncated, damaged, or no checkpoint at all" in done.stderr  # the end of its log
    assert not (tmp_path / "generate-test.txt").exists()
