#!/usr/bin/env python3
"""SQuAD 1.1 as sentence -> question, in the split of Du et al. (2017), as SentencePiece pieces for fairseq-preprocess.

Downloaded from github.com/xinyadu/nqg (data/processed: lower case, tokenised, a line each), or taken from --data-dir, a
folder with the same files. Writes train, valid and test, .sentence and .question each, one joint BPE model trained on
the training part, dict.txt, which holds all its pieces, and raw.test.question, the references as they were.
"""

import argparse
from pathlib import Path

import sentencepiece

from examples.downloads import obtain

SOURCE = "https://raw.githubusercontent.com/xinyadu/nqg/master/data/processed"
SIDES = {"sentence": "src", "question": "tgt"}
SHA256 = {
    "src-dev.txt": "d540a569619c0bd68b46f9eb3d59351206bcdd1d15eeed8dc5a4fd4815a0d872",
    "src-test.txt": "5714e36b9f3ef884f4e109e876f4e507d61f58a1241b4fb0403866dfdeef315d",
    "tgt-dev.txt": "68e293bd31cd223ac95ed3090726c8b83041f99984961bbc4164250dac304782",
    "tgt-test.txt": "e75710df557c2432925c8f2ca17e9b490235ce3c647c857fceaea6c401203a76",
}


def lines_of(name, folder, download, record):
    """The lines of one file, whose checksum is compared (``obtain``)."""
    obtain({name: f"{SOURCE}/{name}"}, folder, SHA256, record, download)
    return [line.strip() for line in (folder / name).read_text(encoding="utf-8").removesuffix("\n").split("\n")]


def pairs_of(part, folder, download, record):
    """One published part, a list of ``(sentence, question)``."""
    sentences, questions = (lines_of(f"{side}-{part}.txt", folder, download, record) for side in SIDES.values())
    if len(sentences) != len(questions):
        raise SystemExit(f"{folder}: {part} has {len(sentences):,} sentences and {len(questions):,} questions")
    return list(zip(sentences, questions))


def split(train_on, folder, download, record):
    """``{"train": pairs, "valid": pairs, "test": pairs}``; where dev is trained on, its last tenth validates."""
    dev, test = (pairs_of(part, folder, download, record) for part in ("dev", "test"))
    if train_on == "train":
        return {"train": pairs_of("train", folder, download, record), "valid": dev, "test": test}
    cut = len(dev) * 9 // 10
    return {"train": dev[:cut], "valid": dev[cut:], "test": test}


def train_bpe(pairs, vocabulary, out):
    """A joint BPE, which leaves characters as they are; ``dict.txt`` has ``vocabulary`` entries with fairseq's four."""
    prefix = out / "sentencepiece.bpe"
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=(text for pair in pairs for text in pair),
        model_prefix=str(prefix),
        vocab_size=vocabulary - 1,  # it counts three special symbols, fairseq four
        model_type="bpe",
        character_coverage=1.0,
        normalization_rule_name="identity",
        minloglevel=2,
    )
    pieces = sentencepiece.SentencePieceProcessor(model_file=f"{prefix}.model")
    ordinary = [
        pieces.id_to_piece(i) for i in range(len(pieces)) if not pieces.is_control(i) and not pieces.is_unknown(i)
    ]
    (out / "dict.txt").write_text("".join(f"{piece} 1\n" for piece in ordinary), encoding="utf-8")
    return pieces


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder to write to")
    parser.add_argument(
        "--data-dir",
        type=Path,
        help="folder with src-dev.txt, tgt-dev.txt, ..., or whose question_generation/ has them (default: download)",
    )
    parser.add_argument("--train-on", choices=["train", "dev"], default="train", help="published part to train on")
    parser.add_argument("--vocabulary", type=int, default=30522, help="entries of the dictionary (default: 30522)")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    raw = args.data_dir or args.out / "raw"
    if args.data_dir is None:
        raw.mkdir(exist_ok=True)
    elif (raw / "question_generation").is_dir():
        raw /= "question_generation"
    parts = split(args.train_on, raw, args.data_dir is None, args.out / "CHECKSUMS")
    pieces = train_bpe(parts["train"], args.vocabulary, args.out)
    for part, pairs in parts.items():
        for side, texts in zip(SIDES, zip(*pairs)):
            encoded = "".join(" ".join(pieces.encode(text, out_type=str)) + "\n" for text in texts)
            (args.out / f"{part}.{side}").write_text(encoded, encoding="utf-8")
        print(f"{part}: {len(pairs):,} sentences")
    references = "".join(question + "\n" for _, question in parts["test"])
    (args.out / "raw.test.question").write_text(references, encoding="utf-8")


if __name__ == "__main__":
    main()
