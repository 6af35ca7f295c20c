#!/usr/bin/env python3
"""Multi30k English-German (29,000 image captions) as SentencePiece pieces, ready for fairseq-preprocess.

Downloads the raw text from its public source, or takes it from --data-dir; either way checksums are verified. One joint
BPE model is trained on the training part. Test is test_2016_flickr, 1,000 sentences.
"""

import argparse
import gzip
import hashlib
import urllib.request
from pathlib import Path

import sentencepiece

SOURCE = "https://raw.githubusercontent.com/multi30k/dataset/master/data/task1/raw"
PARTS = {"train": "train", "valid": "val", "test": "test_2016_flickr"}
SHA256 = {
    "train.en.gz": "d79cfa999dd4c51d2cb42499b6796d5a882c3a8a961923c25a898c90f8bbd56f",
    "train.de.gz": "726e39b2fa9eb9ffb6dc763fb35a179f80fae06ffc5d28b6ace5faa883de28a6",
    "val.en.gz": "14f7d25ddd868909a9213e361768460edcacdd6ab9d1e77b92560dc10c10dc28",
    "val.de.gz": "f0cba2f995189cf5770f29a8a9a537a3ad3f51657ad873405082ff6863a5e75a",
    "test_2016_flickr.en.gz": "611d361c6334bc7246101d48097c13cf5c4413c5befc793cc629934359d532d9",
    "test_2016_flickr.de.gz": "9204244e408ccb38d2a55cfcd344df15005fc42a07a6e55ca6c52b6ababb8cc8",
}


def raw_text(name, folder, download):
    """The lines of a file of the data set, from ``folder``; fetched to it first if ``download``."""
    path = folder / name
    if not path.exists() and download:
        print(f"downloading {name}", flush=True)
        partial = path.with_suffix(".part")
        urllib.request.urlretrieve(f"{SOURCE}/{name}", partial)
        partial.rename(path)
    if not path.exists():
        raise SystemExit(f"--data-dir {folder}: there is no {name}")
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != SHA256[name]:
        raise SystemExit(f"{path}: SHA-256 is {found}, not {SHA256[name]}; remove it and fetch it again")
    return gzip.decompress(path.read_bytes()).decode().splitlines()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder to write train, valid and test to, .en and .de each")
    parser.add_argument("--data-dir", type=Path, help="folder with the files *.gz of the data set (default: download)")
    parser.add_argument("--vocabulary", type=int, default=4000, help="size of the joint BPE (default: 4000)")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    raw = args.data_dir or args.out / "raw"
    raw.mkdir(exist_ok=True)
    text = {
        f"{part}.{language}": raw_text(f"{name}.{language}.gz", raw, download=args.data_dir is None)
        for part, name in PARTS.items()
        for language in ("en", "de")
    }
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(text["train.en"] + text["train.de"]),
        model_prefix=str(args.out / "sentencepiece.bpe"),
        vocab_size=args.vocabulary,
        model_type="bpe",
        character_coverage=1.0,
        minloglevel=2,
    )
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(args.out / "sentencepiece.bpe.model"))
    (args.out / "raw.test.de").write_text("".join(line.strip() + "\n" for line in text["test.de"]))
    for name, lines in text.items():
        split = (" ".join(pieces.encode(line.strip(), out_type=str)) for line in lines)
        (args.out / name).write_text("".join(line + "\n" for line in split))
        print(f"{name}: {len(lines):,} sentences")


if __name__ == "__main__":
    main()
