#!/usr/bin/env python3
"""Text for a masked language model and classification tasks, as SentencePiece pieces ready for fairseq-preprocess.

small: film reviews (every 20th is held out), and the tasks MR, SUBJ, SST-2 and TREC. full: WikiText-103, and five tasks
of GLUE. Files are downloaded from their public sources, or taken from --data-dir. A line of the pretraining text that
shares eight words in a row with a test sentence, or is one, is left out, and so is an example of a task that its own
test part has, too. In lower case; one BPE model is trained on the pretraining text.
"""

import argparse
import itertools
from pathlib import Path

import sentencepiece

from examples.downloads import obtain
from examples.masked_language_model import corpora

VOCABULARY = {"small": 4000, "full": 32000}
SHARED_WORDS = 8


def runs(sentence):
    """Every eight words in a row, or the whole sentence where it has fewer."""
    words = sentence.split()
    return {tuple(words[i : i + SHARED_WORDS]) for i in range(max(1, len(words) - SHARED_WORDS + 1))}


def without_test(documents, tasks):
    """The documents (lists of lines) without the lines of which a test part has eight words or all."""
    sentences = {text for task in tasks.values() for _, *texts in task["test"] for text in texts}
    known = set().union(*map(runs, sentences))
    kept = [[line for line in document if not known & runs(line)] for document in documents]
    left_out = sum(map(len, documents)) - sum(map(len, kept))
    print(f"pretraining text: {left_out:,} of {sum(map(len, documents)):,} lines left out: a test part has them")
    return kept


def without_own_test(name, task):
    """The task without training and validation examples whose text its test part has; says how many those are."""
    known = {tuple(texts) for _, *texts in task["test"]}
    kept = {part: [each for each in task[part] if part == "test" or each[1:] not in known] for part in task}
    sizes = ", ".join(f"{part} {len(examples):,}" for part, examples in kept.items())
    left_out = sum(map(len, task.values())) - sum(map(len, kept.values()))
    print(f"{name}: {sizes} examples; {left_out:,} left out: the test part has them, too")
    return kept


def pretraining_text(config, out, data_dir):
    """``(training documents, held-out documents)``, each a list of lists of lines."""
    if config == "small":
        return corpora.held_out(corpora.reviews(data_dir or out / "raw"), 20)
    parts = (corpora.lines_of((out / "wikitext-103" / part).read_bytes()) for part in ("train", "valid"))
    return tuple([lines] for lines in parts)


def write(path, lines):
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        file.writelines(f"{line}\n" for line in lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "out", type=Path, help="folder to write to: pretrain/PART and TASK/PART.input0, .input1, .label"
    )
    parser.add_argument("--config", choices=list(corpora.FILES), default="small", help="default: small")
    parser.add_argument("--data-dir", type=Path, help="folder with the files of the corpora (default: download)")
    parser.add_argument("--vocabulary", type=int, help=f"size of the BPE (default: {VOCABULARY})")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    raw = args.data_dir or args.out / "raw"
    files = corpora.FILES[args.config]
    obtain(files, raw, corpora.SHA256, args.out / "CHECKSUMS", download=args.data_dir is None)
    tasks = {name: without_own_test(name, task) for name, task in getattr(corpora, args.config)(raw).items()}
    train, valid = pretraining_text(args.config, args.out, args.data_dir)
    train = without_test(train, tasks)
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=itertools.chain.from_iterable(train),
        model_prefix=str(args.out / "sentencepiece.bpe"),
        vocab_size=args.vocabulary or VOCABULARY[args.config],
        model_type="bpe",
        character_coverage=0.9999,
        input_sentence_size=2_000_000,
        minloglevel=2,
    )
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(args.out / "sentencepiece.bpe.model"))

    def encoded(lines):
        return (" ".join(pieces.encode(line, out_type=str)) for line in lines)

    for part, documents in (("train", train), ("valid", valid)):
        lines = list(itertools.chain.from_iterable(documents))
        write(args.out / "pretrain" / part, encoded(lines))
        print(f"pretraining text, {part}: {len(lines):,} lines, {sum(len(line.split()) for line in lines):,} words")
    for name, task in tasks.items():
        for part, examples in task.items():
            labels, *inputs = zip(*examples)
            write(args.out / name / f"{part}.label", labels)
            for i, lines in enumerate(inputs):
                write(args.out / name / f"{part}.input{i}", encoded(lines))


if __name__ == "__main__":
    main()
