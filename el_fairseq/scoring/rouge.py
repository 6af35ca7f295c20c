"""``--scoring rouge``: ROUGE F1 by the rouge-score library, with a signature that says what was computed."""

import re
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any

import sacrebleu
from fairseq.dataclass import ChoiceEnum, FairseqDataclass
from fairseq.scoring import SCORER_REGISTRY, BaseScorer, register_scorer
from fairseq.scoring.tokenizer import EvaluationTokenizer

MEASURES = {"rouge1": "ROUGE-1", "rouge2": "ROUGE-2", "rougeL": "ROUGE-L", "rougeLsum": "ROUGE-Lsum"}
SENTENCE_END = re.compile(r"([.!?]['\"’”)\]]*)\s+")
UNKNOWN = "<<unk>>"  # how fairseq writes <unk> in a reference, so that it does not match that of a hypothesis


@dataclass
class RougeConfig(FairseqDataclass):
    """The options that change the score."""

    rouge_stemming: bool = field(
        default=False, metadata={"help": "compare words longer than three letters by their Porter stems (English)"}
    )
    rouge_sentences: ChoiceEnum(["punctuation", "newline"]) = field(  # type: ignore[valid-type]
        default="punctuation",
        metadata={
            "help": "where a sentence ends, for ROUGE-Lsum: at newlines and after . ! or ? before white space; or at "
            "newlines only"
        },
    )
    rouge_tokenizer: ChoiceEnum(["rouge", *sacrebleu.BLEU.TOKENIZERS]) = field(  # type: ignore[valid-type]
        default="rouge",
        metadata={
            "help": "rouge: runs of a-z and 0-9, as in ROUGE-1.5.5 (English); or one of sacrebleu's, for other "
            "languages. All compare lower case"
        },
    )


class RougeScorer(BaseScorer):
    """The mean F1, in percent, of ROUGE-1, -2, -L and -Lsum over all texts.

    A text with several references has, for each measure, the best F1 over them (``score_multi`` of the library).

    Args:
        cfg: a ``RougeConfig``.

    Raises:
        ImportError: without the rouge-score library.
    """

    def __init__(self, cfg: RougeConfig):
        super().__init__(cfg)
        try:
            from rouge_score.rouge_scorer import RougeScorer as Library
        except ImportError as error:
            raise ImportError("ROUGE needs the rouge-score library: pip install rouge-score==0.1.2") from error
        self.library = Library(list(MEASURES), tokenizer=_tokenizer(cfg))
        self.sums = dict.fromkeys(MEASURES, 0.0)
        self.references: set[int] = set()  # how many the texts had
        self.texts = 0

    def add_string(self, ref: str | list[str], pred: str) -> None:
        """Add a text.

        Args:
            ref: its reference, or a list of them.
            pred: the hypothesis.
        """
        refs = [ref] if isinstance(ref, str) else ref
        refs = [self._split(each.replace(UNKNOWN, "unknowninreference")) for each in refs]
        for measure, score in self.library.score_multi(refs, self._split(pred)).items():
            self.sums[measure] += 100 * score.fmeasure
        self.references.add(len(refs))
        self.texts += 1

    def scores(self) -> dict[str, float]:
        """The mean F1 of each of ``MEASURES``, in percent; NaN without texts."""
        return {measure: total / self.texts if self.texts else float("nan") for measure, total in self.sums.items()}

    def score(self) -> float:
        """ROUGE-L, in percent."""
        return self.scores()["rougeL"]

    def signature(self) -> str:
        """What changes the score, in the manner of sacrebleu."""
        references = "var" if len(self.references) > 1 else next(iter(self.references), 0)
        stemming = "yes" if self.cfg.rouge_stemming else "no"
        return (
            f"nrefs:{references}|case:lc|stem:{stemming}|tok:{self.cfg.rouge_tokenizer}|"
            f"sent:{self.cfg.rouge_sentences}|rouge-score:{version('rouge-score')}"
        )

    def result_string(self) -> str:
        """All four, and the signature."""
        shown = " ".join(f"{MEASURES[measure]} = {score:.2f}" for measure, score in self.scores().items())
        return f"{shown} {self.signature()}"

    def _split(self, text: str) -> str:
        """One sentence a line, as the library wants them."""
        return SENTENCE_END.sub(r"\1\n", text) if self.cfg.rouge_sentences == "punctuation" else text


class _SacrebleuTokenizer:
    def __init__(self, name: str, stemming: bool):
        from nltk.stem.porter import PorterStemmer

        self.split = EvaluationTokenizer(tokenizer_type=name, lowercase=True).tokenize
        self.stem = PorterStemmer().stem if stemming else str

    def tokenize(self, text: str) -> list[str]:
        return [self.stem(word) if len(word) > 3 else word for word in self.split(text).split()]


def _tokenizer(cfg: RougeConfig) -> Any:
    """An object with ``tokenize(text) -> words``."""
    from rouge_score.tokenizers import DefaultTokenizer

    if cfg.rouge_tokenizer == "rouge":
        return DefaultTokenizer(cfg.rouge_stemming)
    return _SacrebleuTokenizer(str(cfg.rouge_tokenizer), cfg.rouge_stemming)


if "rouge" not in SCORER_REGISTRY:  # this package can be imported again: a worker, a second path
    register_scorer("rouge", dataclass=RougeConfig)(RougeScorer)
