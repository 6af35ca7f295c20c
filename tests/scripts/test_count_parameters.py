"""The parameter table, against the formulas of the paper and the parameters of the modules themselves."""

import sys

import count_parameters
import pytest
from fairseq.modules import MultiheadAttention

from el_fairseq.modules import MHEAttention, MultiQueryAttention, SingleHeadAttention

SHAPES = [(1, 8), (4, 6), (8, 64), (16, 5)]


@pytest.mark.parametrize("n, d", SHAPES)
@pytest.mark.parametrize("variant", ["mul", "add"])
def test_the_papers_identities(n, d, variant):
    """MHA - MHE = (3n² - 3n)d² - 3nd, and MHE - single head = 3nd (Q, K, V projections, no biases)."""
    count = count_parameters.qkv_parameters
    mha, sha = count(MultiheadAttention(n * d, n, bias=False)), count(SingleHeadAttention(n * d, n, bias=False))
    mhe = count(MHEAttention(n * d, n, variant=variant, bias=False))
    assert mha - mhe == (3 * n**2 - 3 * n) * d**2 - 3 * n * d
    assert mhe - sha == 3 * n * d


@pytest.mark.parametrize("n, d", SHAPES)
def test_every_formula_is_what_its_module_has(n, d):
    modules = {
        "mha": MultiheadAttention(n * d, n),
        "mhe-mul": MHEAttention(n * d, n),
        "mhe-add": MHEAttention(n * d, n, variant="add"),
        "mqa": MultiQueryAttention(n * d, n),
        "sha": SingleHeadAttention(n * d, n),
    }
    assert modules.keys() == count_parameters.FORMULAS.keys()
    for name, module in modules.items():
        assert count_parameters.qkv_parameters(module) == count_parameters.FORMULAS[name][1](n, d), name


@pytest.mark.parametrize(
    "arch, attentions",
    [("transformer_tiny", 3), ("mhe_transformer_lm --decoder-layers 2", 1), ("roberta --encoder-layers 2", 1)],
)
def test_the_table(arch, attentions, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["count_parameters.py", "--arch", *arch.split(), "--vocabulary", "100"])
    count_parameters.main()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in capsys.readouterr().out.splitlines()][2:]
    assert [row[0] for row in rows if row[0]] == ["mha", "mhe-mul", "mhe-add", "mqa", "sha"]
    assert len(rows) == 5 * attentions
    for row in rows:
        assert row[4].endswith(f"= {row[3]}"), row  # the formula's number is the counted one
    wholes = {row[0]: row[6] for row in rows if row[0]}
    numbers = {name: int(cell.replace(",", "")) for name, cell in wholes.items()}
    assert numbers["mha"] > numbers["mqa"] > numbers["mhe-mul"] == numbers["mhe-add"] > numbers["sha"]


def test_an_unknown_architecture_is_named(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["count_parameters.py", "--arch", "lstm"])
    with pytest.raises(SystemExit):
        count_parameters.main()
    assert "--arch mhe_lstm: not one of mhe_roberta" in capsys.readouterr().err
