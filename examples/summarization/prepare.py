#!/usr/bin/env python3
"""Documents and summaries as text and as pieces of words, ready for fairseq-preprocess.

Corpora: cnndm (CNN/DailyMail), xsum, and dialogsum (500 dialogues of the development part, the last 50 of them for
validation; 500 test dialogues with 3 summaries each). The files are downloaded from their public sources, or taken from
--data-dir: a folder with the same files, a folder that has a folder called as the corpus, or one with text as BART's
recipe has it, a document or summary a line (train.source, train.target, val.source, ..., test.target).

cnndm and xsum are cut into the pieces of GPT-2, as BART wants them; dialogsum by a BPE that is trained on its training
part. OUT gets PART.source and PART.target (text, a line each; test.target2 and test.target3 are further references),
PART.bpe.source and PART.bpe.target (pieces), and the files of the pieces.
"""

import argparse
import itertools
from pathlib import Path

import sentencepiece
from fairseq.data.encoders.gpt2_bpe_utils import get_encoder

from examples.downloads import obtain

from . import corpora

PARTS = ("train", "valid", "test")
SPEAKERS = [f"#Person{i}#" for i in range(1, 8)]


def in_lines(folder, parts):
    """What BART's recipe has in its files, or None."""
    if not (folder / "test.source").exists():
        return None
    pairs = {}
    for part in parts:
        stem = folder / part.replace("valid", "val")
        sides = [stem.with_suffix(f".{side}").read_text(encoding="utf-8").split("\n") for side in ("source", "target")]
        if len(sides[0]) != len(sides[1]):
            raise SystemExit(f"{stem}: {len(sides[0]):,} lines of source, {len(sides[1]):,} of target")
        pairs[part] = [(document, [summary]) for document, summary in zip(*sides) if document and summary]
    return pairs


def load(corpus, parts, data_dir, out):
    """``{part: [(document, [summary, ...]), ...]}``, each text one line."""
    folder = data_dir or out / "raw"
    folder = folder / corpus if (folder / corpus).is_dir() else folder
    pairs = in_lines(folder, parts)
    if pairs is None:
        folder.mkdir(exist_ok=True)
        unused = {f"all_{part.replace('valid', 'val')}.txt" for part in set(PARTS) - set(parts)}
        names = {name: url for name, url in corpora.FILES[corpus].items() if name not in unused}
        obtain(names, folder, corpora.SHA256, out / "CHECKSUMS", download=data_dir is None)
        pairs = getattr(corpora, corpus)(folder, parts)
    for part, texts in pairs.items():
        if not texts:
            raise SystemExit(f"{folder}: there is no document of the {part} part of {corpus}")
    return {
        part: [(one_line(document), [one_line(summary) for summary in summaries]) for document, summaries in texts]
        for part, texts in pairs.items()
    }


def one_line(text):
    return " ".join(text.split())


def own_pieces(texts, out, vocabulary):
    """``text -> pieces`` of a BPE of ``texts``, and its files sentencepiece.bpe.model and dict.txt.

    What no piece has becomes bytes: nothing is unknown, which fairseq's hub interface could not read.
    """
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts),
        model_prefix=str(out / "sentencepiece.bpe"),
        vocab_size=vocabulary,
        model_type="bpe",
        character_coverage=1.0,
        byte_fallback=True,
        user_defined_symbols=SPEAKERS,
        max_sentence_length=100_000,
        minloglevel=2,
    )
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(out / "sentencepiece.bpe.model"))
    known = (pieces.id_to_piece(i) for i in range(len(pieces)) if not (pieces.is_control(i) or pieces.is_unknown(i)))
    write(out / "dict.txt", (f"{piece} 1" for piece in known))
    return lambda text: pieces.encode(text, out_type=str)


def gpt2_pieces(data_dir, out):
    """``text -> pieces`` of GPT-2, and its files encoder.json, vocab.bpe and dict.txt."""
    names, folder = corpora.FILES["gpt2"], out / "gpt2"
    folder.mkdir(exist_ok=True)
    for name in names:
        if data_dir and (data_dir / name).exists():
            (folder / name).write_bytes((data_dir / name).read_bytes())
    obtain(names, folder, corpora.SHA256, out / "CHECKSUMS", download=data_dir is None)
    bpe = get_encoder(str(folder / "encoder.json"), str(folder / "vocab.bpe"))
    return lambda text: map(str, bpe.encode(text))


def write(path, lines):
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder to write to")
    parser.add_argument("--corpus", choices=["cnndm", "xsum", "dialogsum"], required=True)
    parser.add_argument("--data-dir", type=Path, help="folder with the files of the corpus (default: download)")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="default: all")
    parser.add_argument("--vocabulary", type=int, default=2000, help="size of dialogsum's BPE (default: 2000)")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    pairs = load(args.corpus, args.parts, args.data_dir, args.out)
    if args.corpus == "dialogsum":
        texts = (text for document, summaries in pairs["train"] for text in (document, *summaries))
        pieces = own_pieces(texts, args.out, args.vocabulary)
    else:
        pieces = gpt2_pieces(args.data_dir, args.out)
    for part, texts in pairs.items():
        documents, references = zip(*texts)
        sides = {"source": documents, "target": [summaries[0] for summaries in references]}
        for side, lines in sides.items():
            write(args.out / f"{part}.{side}", lines)
            write(args.out / f"{part}.bpe.{side}", (" ".join(pieces(line)) for line in lines))
        for i, more in enumerate(itertools.islice(zip(*references), 1, None), 2):
            write(args.out / f"{part}.target{i}", more)
        print(f"{part}: {len(texts):,} documents with {len(references[0])} summaries each")


if __name__ == "__main__":
    main()
