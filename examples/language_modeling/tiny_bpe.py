#!/usr/bin/env python3
"""A small byte-level BPE of GPT-2's kind, trained on a text: the files that convert_hf_gpt2.py writes beside model.pt.

OUT-FOLDER gets vocab.json and merges.txt, for --bpe gpt2, and dict.txt, in which every token is named by its number.
"""

import argparse
from pathlib import Path

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
    size = tokenizer.get_vocab_size()
    (args.out / "dict.txt").write_text("".join(f"{number} 1\n" for number in range(size)))
    print(f"wrote {args.out}: {size:,} tokens")


if __name__ == "__main__":
    main()
