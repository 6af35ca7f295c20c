"""``--scoring rouge``: against hand-computed scores, a naive ROUGE, and the library itself."""

import random
import subprocess
import sys
from collections import Counter

import pytest
from fairseq.scoring import build_scorer
from helpers.commands import ROOT, generate, lines_of, train
from rouge_score.rouge_scorer import RougeScorer as Library

from el_fairseq.scoring.rouge import MEASURES, RougeConfig, RougeScorer


def rouge(pairs, **options):
    scorer = RougeScorer(RougeConfig(**options))
    for ref, pred in pairs:
        scorer.add_string(ref, pred)
    return scorer


def random_text(rng, separator=" "):
    words = ["cat", "cats", "run", "running", "runs", "a", "of", "the", "house"]
    sentences = [" ".join(rng.choices(words, k=rng.randint(1, 9))) for _ in range(rng.randint(1, 4))]
    return separator.join(f"{sentence.capitalize()}{rng.choice('.!?')}" for sentence in sentences)


@pytest.mark.parametrize(
    ("ref", "pred", "expected"),
    [
        ("the cat was on the mat", "The cat sat on the mat.", (500 / 6, 60, 500 / 6, 500 / 6)),
        ("A b c. D e f.", "D e f. A b c.", (100, 80, 50, 100)),
        ("w1 w2 w3 w4 w5", "w1 w2 w6 w7 w8. w1 w3 w8 w9 w5.", (160 / 3, 200 / 13, 160 / 3, 160 / 3)),  # Lin (2004), 3.2
        ("a b", "", (0, 0, 0, 0)),
        ("a", "a", (100, 0, 100, 100)),
    ],
    ids=["one sentence", "other order", "the paper's", "nothing generated", "no bigrams"],
)
def test_scores_computed_by_hand(ref, pred, expected):
    assert tuple(rouge([(ref, pred)]).scores().values()) == pytest.approx(expected)


def f1(hits, predicted, wanted):
    return 200 * hits / (predicted + wanted) if hits else 0.0


def naive(ref, pred):
    """ROUGE-1, -2 and -L of two lists of words."""
    scores = []
    for n in (1, 2):
        grams = [Counter(zip(*(words[i:] for i in range(n)))) for words in (ref, pred)]
        scores.append(f1((grams[0] & grams[1]).total(), grams[1].total(), grams[0].total()))
    longest = [[0] * (len(pred) + 1) for _ in range(len(ref) + 1)]
    for i, x in enumerate(ref):
        for j, y in enumerate(pred):
            longest[i + 1][j + 1] = longest[i][j] + 1 if x == y else max(longest[i][j + 1], longest[i + 1][j])
    return [*scores, f1(longest[-1][-1], len(pred), len(ref))]


def test_is_the_mean_of_a_naive_rouge():
    rng = random.Random(1)
    pairs = [(random_text(rng), random_text(rng)) for _ in range(50)]
    words = [[text.lower().translate(str.maketrans(".!?", "   ")).split() for text in pair] for pair in pairs]
    expected = [sum(column) / len(pairs) for column in zip(*(naive(*pair) for pair in words))]
    assert list(rouge(pairs).scores().values())[:3] == pytest.approx(expected)


@pytest.mark.parametrize("references", [1, 3])
@pytest.mark.parametrize("stemming", [False, True])
@pytest.mark.parametrize("sentences", ["punctuation", "newline"])
def test_is_what_the_library_says(references, stemming, sentences):
    rng, separator = random.Random(2), "\n" if sentences == "newline" else " "
    library, pairs, totals = Library(list(MEASURES), use_stemmer=stemming), [], Counter()
    for _ in range(20):
        refs, pred = [random_text(rng, "\n") for _ in range(references)], random_text(rng, "\n")
        totals.update({name: score.fmeasure for name, score in library.score_multi(refs, pred).items()})
        pairs.append(([ref.replace("\n", separator) for ref in refs], pred.replace("\n", separator)))
    ours = rouge(pairs, rouge_stemming=stemming, rouge_sentences=sentences)
    assert ours.scores() == pytest.approx({name: 5 * total for name, total in totals.items()})
    assert ours.scores()["rougeLsum"] > ours.scores()["rougeL"]


def test_the_best_reference_counts_for_each_measure():
    pred, near, far = "a b c d", "d c b a", "a b x y z"
    alone = [rouge([(ref, pred)]).scores() for ref in (near, far)]
    assert alone[0]["rouge1"] > alone[1]["rouge1"] and alone[0]["rouge2"] < alone[1]["rouge2"]
    both = rouge([([near, far], pred)]).scores()
    assert both == {measure: max(scores[measure] for scores in alone) for measure in MEASURES}


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ('He left. "Why?" she asked.', 3),
        ("It cost 3.50 dollars.", 1),
        ("He said: “Stop!” Then he left.", 2),
        ("One\ntwo", 2),
        ("", 1),
    ],
)
def test_sentences_end_at_punctuation_before_space(text, sentences):
    assert len(rouge([])._split(text).split("\n")) == sentences
    assert rouge([], rouge_sentences="newline")._split(text) == text


def test_other_languages_need_another_tokenizer():
    pair = [("Größe über alles", "größe ÜBER nichts")]
    assert rouge(pair).scores()["rouge1"] == 75  # "gr", "e", "ber"
    assert rouge(pair, rouge_tokenizer="13a").scores()["rouge1"] == pytest.approx(200 / 3)
    assert rouge([("日本語", "日本人")], rouge_tokenizer="char").scores()["rouge1"] == pytest.approx(200 / 3)
    assert rouge([("日本語", "日本語")]).scores()["rouge1"] == 0
    stems = [("the runs", "the running")]
    assert rouge(stems, rouge_tokenizer="13a").scores()["rouge1"] == 50
    assert rouge(stems, rouge_tokenizer="13a", rouge_stemming=True).scores()["rouge1"] == 100


def test_an_unknown_word_matches_nothing():
    assert rouge([("a <<unk>>", "a <unk>")]).scores()["rouge1"] == 50
    assert rouge([("<<unk>>", "<<unk>>")]).score() == 0


def test_the_signature_says_what_was_computed():
    assert rouge([("a", "a")]).signature() == "nrefs:1|case:lc|stem:no|tok:rouge|sent:punctuation|rouge-score:0.1.2"
    options = {"rouge_stemming": True, "rouge_sentences": "newline", "rouge_tokenizer": "intl"}
    whole = "nrefs:var|case:lc|stem:yes|tok:intl|sent:newline|rouge-score:0.1.2"
    assert rouge([("a", "a"), (["a", "b"], "a")], **options).signature() == whole
    assert rouge([("a b", "a b")], **options).result_string() == (
        "ROUGE-1 = 100.00 ROUGE-2 = 100.00 ROUGE-L = 100.00 ROUGE-Lsum = 100.00 " + whole.replace("var", "1")
    )


def test_without_the_library_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "rouge_score.rouge_scorer", None)
    with pytest.raises(ImportError, match="ROUGE needs .* pip install rouge-score==0.1.2"):
        build_scorer("rouge", None)


def test_importing_again_and_without_the_library():
    """A package under another path registers nothing twice; nothing but a scorer that is used imports the library."""
    code = """
import sys, el_fairseq
del sys.modules["el_fairseq.scoring.rouge"], el_fairseq.scoring.rouge
import el_fairseq.scoring.rouge
assert "rouge_score" not in sys.modules and "nltk" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


@pytest.mark.slow
def test_fairseq_generate_scores_with_it(data, tmp_path):
    tiny = "--arch transformer --encoder-embed-dim 16 --encoder-ffn-embed-dim 16 --encoder-layers 1 --decoder-layers 1"
    train(data, tmp_path, tiny, until="--max-update 1")
    options = {"rouge_stemming": True, "rouge_sentences": "newline"}
    flags = "--scoring rouge --rouge-stemming --rouge-sentences newline"
    output = generate(data, tmp_path / "checkpoint_last.pt", flags)
    texts = {}
    for line in lines_of(output, "TD"):
        name, *_, text = line.split("\t")
        texts.setdefault(name, text)
    expected = rouge([(texts[f"T-{i}"], texts[f"D-{i}"]) for i in range(60)], **options)
    assert 0 < expected.score() < 100
    assert f"Generate test with beam=5: {expected.result_string()}" in output.splitlines()
