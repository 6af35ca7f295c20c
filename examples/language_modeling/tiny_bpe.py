#!/usr/bin/env python3
"""A small byte-level BPE of GPT-2's kind, trained on a text: the files that convert_hf_gpt2.py writes beside model.pt.

OUT-FOLDER gets vocab.json and merges.txt, for --bpe gpt2, and dict.txt, in which every token is named by its number.
"""

import argparse
from pathlib import Path

from fairseq.data import Dictionary
from tokenizers import ByteLevelBPETokenizer


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", metavar="TEXT", type=Path, help="a line a paragraph")
    parser.add_argument("out", metavar="OUT-FOLDER", type=Path)
    parser.add_argument("--size", type=int, default=4000, help="tokens (default: 4000)")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    tokenizer = ByteLevelBPETokenizer()
    tokenizer.train(str(args.text), vocab_size=args.size, show_progress=False)
    tokenizer.save_model(str(args.out))
    dictionary = Dictionary()
    for number in range(tokenizer.get_vocab_size()):
        dictionary.add_symbol(str(number))
    dictionary.save(str(args.out / "dict.txt"))
    print(f"wrote {args.out}: {tokenizer.get_vocab_size():,} tokens")


if __name__ == "__main__":
    main()
