#!/usr/bin/env python3
"""English-German text as SentencePiece pieces, ready for fairseq-preprocess.

Corpora: multi30k (29,000 image captions; test: test_2016_flickr), iwslt14 (talks) and wmt14 (4.5 million sentences).
Downloaded from their public sources, or taken from --data-dir, a folder with the same files. One joint BPE model is
trained on the training part. As in fairseq's own examples, every 23rd (iwslt14) or 100th (wmt14) training sentence
validates and wmt14 is tested on newstest2014; unlike there, text is cased and not tokenised (pieces are made from raw
text), and no pair is left out for its length.
"""

import argparse
import gzip
import re
import tarfile
from pathlib import Path

import sentencepiece

from examples.downloads import obtain

LANGUAGES = ("en", "de")
MULTI30K = "https://raw.githubusercontent.com/multi30k/dataset/master/data/task1/raw"
STATMT = "https://www.statmt.org"
FILES = {
    "multi30k": {
        f"{part}.{lang}.gz": f"{MULTI30K}/{part}.{lang}.gz"
        for part in ("train", "val", "test_2016_flickr")
        for lang in LANGUAGES
    },
    "iwslt14": {"de-en.tgz": "https://dl.fbaipublicfiles.com/fairseq/data/iwslt14/de-en.tgz"},
    "wmt14": {
        "training-parallel-europarl-v7.tgz": f"{STATMT}/wmt13/training-parallel-europarl-v7.tgz",
        "training-parallel-commoncrawl.tgz": f"{STATMT}/wmt13/training-parallel-commoncrawl.tgz",
        "training-parallel-nc-v9.tgz": f"{STATMT}/wmt14/training-parallel-nc-v9.tgz",
        "test-full.tgz": f"{STATMT}/wmt14/test-full.tgz",
    },
}
SHA256 = {
    "train.en.gz": "d79cfa999dd4c51d2cb42499b6796d5a882c3a8a961923c25a898c90f8bbd56f",
    "train.de.gz": "726e39b2fa9eb9ffb6dc763fb35a179f80fae06ffc5d28b6ace5faa883de28a6",
    "val.en.gz": "14f7d25ddd868909a9213e361768460edcacdd6ab9d1e77b92560dc10c10dc28",
    "val.de.gz": "f0cba2f995189cf5770f29a8a9a537a3ad3f51657ad873405082ff6863a5e75a",
    "test_2016_flickr.en.gz": "611d361c6334bc7246101d48097c13cf5c4413c5befc793cc629934359d532d9",
    "test_2016_flickr.de.gz": "9204244e408ccb38d2a55cfcd344df15005fc42a07a6e55ca6c52b6ababb8cc8",
}
VOCABULARY = {"multi30k": 4000, "iwslt14": 10000, "wmt14": 32000}


def multi30k(folder):
    """Training, validation and test part, each a list of ``(English, German)``."""
    parts = []
    for part in ("train", "val", "test_2016_flickr"):
        sides = [gzip.decompress((folder / f"{part}.{lang}.gz").read_bytes()).decode() for lang in LANGUAGES]
        parts.append(list(zip(*(side.splitlines() for side in sides))))
    return parts


def members(archive, pattern):
    """The text of the files in a tar file whose names match, by name: a list. A link is none: it may lead anywhere."""
    with tarfile.open(archive) as tar:
        files = [member for member in tar if member.isreg() and re.fullmatch(pattern, member.name)]
        if not files:
            raise SystemExit(f"{archive}: no file in it is called {pattern}")
        return [tar.extractfile(file).read().decode() for file in sorted(files, key=lambda file: file.name)]


def segments(text):
    """The sentences of an SGML or XML file."""
    return re.findall(r"<seg[^>]*>\s*(.*?)\s*</seg>", text, re.DOTALL)


def held_out(pairs, every):
    """``pairs`` without each last of ``every``, and those."""
    return [pair for i, pair in enumerate(pairs, 1) if i % every], pairs[every - 1 :: every]


def pair_up(corpus, english, german):
    if len(english) != len(german):
        raise SystemExit(f"{corpus}: {len(english):,} English lines, {len(german):,} German ones")
    return [pair for pair in zip(english, german) if all(line.strip() for line in pair)]


def iwslt14(folder):
    """As ``multi30k``; lines of markup are left out, titles and descriptions are text."""
    archive, train, test = folder / "de-en.tgz", [], []
    for lang in LANGUAGES:
        (text,) = members(archive, rf"(.*/)?train\.tags\.de-en\.{lang}")
        lines = [re.sub(r"</?(title|description)>", "", line) for line in text.split("\n")]
        train.append([line for line in lines if not line.lstrip().startswith("<")])
        test.append([s for text in members(archive, rf"(.*/)?IWSLT14\..*\.de-en\.{lang}\.xml") for s in segments(text)])
    return *held_out(pair_up("iwslt14", *train), 23), pair_up("iwslt14", *test)


def wmt14(folder):
    """As ``multi30k``."""
    train, test = [[], []], []
    for side, lang in zip(train, LANGUAGES):
        for name in list(FILES["wmt14"])[:-1]:
            for text in members(folder / name, rf"(.*/)?(europarl-v7|commoncrawl|news-commentary-v9)\.de-en\.{lang}"):
                side.extend(text.split("\n"))
    for part in (r"src\.en", r"ref\.de"):
        (text,) = members(folder / "test-full.tgz", rf"(.*/)?newstest2014-deen-{part}\.sgm")
        test.append(segments(text))
    return *held_out(pair_up("wmt14", *train), 100), pair_up("wmt14", *test)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder to write train, valid and test to, .en and .de each")
    parser.add_argument("--corpus", choices=list(FILES), default="multi30k", help="default: multi30k")
    parser.add_argument("--data-dir", type=Path, help="folder with the files of the corpus (default: download)")
    parser.add_argument("--vocabulary", type=int, help=f"size of the joint BPE (default: {VOCABULARY})")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    raw = args.data_dir or args.out / "raw"
    raw.mkdir(exist_ok=True)
    obtain(FILES[args.corpus], raw, SHA256, args.out / "CHECKSUMS", download=args.data_dir is None)
    parts = dict(
        zip(("train", "valid", "test"), {"multi30k": multi30k, "iwslt14": iwslt14, "wmt14": wmt14}[args.corpus](raw))
    )
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=(side for i in range(2) for side in (pair[i] for pair in parts["train"])),
        model_prefix=str(args.out / "sentencepiece.bpe"),
        vocab_size=args.vocabulary or VOCABULARY[args.corpus],
        model_type="bpe",
        character_coverage=1.0,
        input_sentence_size=2_000_000,
        shuffle_input_sentence=args.corpus == "wmt14",
        minloglevel=2,
    )
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(args.out / "sentencepiece.bpe.model"))
    (args.out / "raw.test.de").write_text("".join(german.strip() + "\n" for _, german in parts["test"]))
    for part, pairs in parts.items():
        for i, lang in enumerate(LANGUAGES):
            with (args.out / f"{part}.{lang}").open("w") as file:
                file.writelines(" ".join(pieces.encode(pair[i].strip(), out_type=str)) + "\n" for pair in pairs)
        print(f"{part}: {len(pairs):,} sentences")


if __name__ == "__main__":
    main()
