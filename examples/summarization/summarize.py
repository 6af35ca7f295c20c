#!/usr/bin/env python3
"""Summarise the lines of a file in Python, with a BART of fairseq and EL-attention.

Usage: python -m examples.summarization.summarize --model-dir bart.large.cnn --src test.source --out test.hypo

As fairseq's examples/bart/summarize.py, whose options it takes; --el-attention off is what that does.
"""

import argparse
import itertools

import torch
from fairseq.models.bart import BARTModel

from el_fairseq import enable_el_attention

DECODING = {
    "cnndm": {"beam": 4, "lenpen": 2.0, "max_len_b": 140, "min_len": 55, "no_repeat_ngram_size": 3},
    "xsum": {"beam": 6, "lenpen": 1.0, "max_len_b": 60, "min_len": 10},
}


def parse_args(argv):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model-dir", required=True, help="folder with the checkpoint and its dictionaries")
    parser.add_argument("--model-file", default="model.pt", help="the checkpoint in it (default: model.pt)")
    parser.add_argument("--sentencepiece-model", metavar="FILE", help="the BPE of the model (default: GPT-2's)")
    parser.add_argument("--src", default="test.source", help="documents, one a line (default: test.source)")
    parser.add_argument("--out", default="test.hypo", help="file for the summaries (default: test.hypo)")
    parser.add_argument("--bsz", type=int, default=32, help="documents in a batch (default: 32)")
    parser.add_argument("--n", type=int, help="only the first N documents")
    parser.add_argument("--xsum-kwargs", action="store_true", help="decode with XSum's options, not CNN/DailyMail's")
    parser.add_argument("--el-attention", choices=["auto", "on", "off"], default="auto", help="default: auto")
    return parser.parse_args(argv)


def load(args):
    """The hub interface, on the GPU in half precision if there is one."""
    bpe = {}
    if args.sentencepiece_model:
        bpe = {"bpe": "sentencepiece", "sentencepiece_model": args.sentencepiece_model}
    bart = BARTModel.from_pretrained(args.model_dir, args.model_file, data_name_or_path=args.model_dir, **bpe).eval()
    if torch.cuda.is_available():
        bart = bart.cuda().half()
    if args.el_attention != "off":
        enable_el_attention(bart, mode=args.el_attention)
    return bart


@torch.no_grad()
def main(argv=None):
    args = parse_args(argv)
    bart, options = load(args), DECODING["xsum" if args.xsum_kwargs else "cnndm"]
    with open(args.src, encoding="utf-8") as source, open(args.out, "w", encoding="utf-8") as out:
        documents = (line.strip() for line in itertools.islice(source, args.n))
        while batch := list(itertools.islice(documents, args.bsz)):
            out.writelines(f"{summary}\n" for summary in bart.sample(batch, **options))
            out.flush()


if __name__ == "__main__":
    main()
