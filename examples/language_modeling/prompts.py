#!/usr/bin/env python3
"""Articles as prompts for GPT-2: each cut to fit, with " TL;DR:" after it, as numbers of tokens.

GPT2-FOLDER is what convert_hf_gpt2.py wrote. OUT is ready for fairseq-preprocess --only-source, a line an article.
"""

import argparse
import logging
from pathlib import Path

ASK = " TL;DR:"


def bpe_of(folder):
    """The BPE of a folder that convert_hf_gpt2.py wrote."""
    logging.getLogger("fairseq.tasks.text_to_speech").setLevel(
        logging.WARNING
    )  # it asks for tensorboardX when imported
    from fairseq.data.encoders.gpt2_bpe import GPT2BPE, GPT2BPEConfig

    files = {"gpt2_encoder_json": str(folder / "vocab.json"), "gpt2_vocab_bpe": str(folder / "merges.txt")}
    return GPT2BPE(GPT2BPEConfig(**files))


def articles_in(folder):
    """The lines of the one file in ``folder`` that is called test*.source."""
    files = sorted(folder.glob("test*.source"))
    if len(files) != 1:
        raise SystemExit(f"--data-dir {folder}: it has {len(files)} files test*.source, and should have one")
    return files[0].read_text(encoding="utf-8").removesuffix("\n").split("\n")


def prompt(bpe, article, limit):
    """At most ``limit`` numbers, and how many of the article's are left out."""
    ask, numbers = bpe.encode(ASK).split(), bpe.encode(article.strip()).split()
    kept = numbers[: limit - len(ask)]
    return kept + ask, len(numbers) - len(kept)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("gpt2", metavar="GPT2-FOLDER", type=Path)
    parser.add_argument("out", metavar="OUT", type=Path, help="file to write")
    parser.add_argument("--data-dir", type=Path, required=True, help="folder with test*.source, an article a line")
    parser.add_argument("--tokens", type=int, default=512, help="longest prompt (default: 512)")
    args = parser.parse_args()
    bpe = bpe_of(args.gpt2)
    if args.tokens <= len(bpe.encode(ASK).split()):
        raise SystemExit(f"--tokens {args.tokens}: there is no room for an article before{ASK}")
    prompts = [prompt(bpe, article, args.tokens) for article in articles_in(args.data_dir)]
    args.out.write_text("".join(" ".join(numbers) + "\n" for numbers, _ in prompts))
    lengths = [len(numbers) for numbers, _ in prompts]
    cut = sum(left_out > 0 for _, left_out in prompts)
    print(f"{len(prompts)} articles: prompts of {min(lengths)} to {max(lengths)} tokens, {cut} articles are cut")


if __name__ == "__main__":
    main()
