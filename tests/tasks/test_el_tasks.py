"""The el_ tasks: stock tasks whose generator is the EL twin."""

import argparse

import pytest
from fairseq.dataclass.configs import FairseqConfig, GenerationConfig
from fairseq.modules import MultiheadAttention
from fairseq.sequence_generator import SequenceGenerator
from fairseq.sequence_scorer import SequenceScorer
from fairseq.tasks import TASK_DATACLASS_REGISTRY, TASK_REGISTRY
from helpers.models import assert_same_hypotheses, batch, build_model, dictionary
from omegaconf import OmegaConf

from el_fairseq.generation import ELSequenceGenerator, ELSequenceGeneratorWithAlignment
from el_fairseq.modules import ELMultiheadAttention
from el_fairseq.ops.tuner import TUNER
from el_fairseq.tasks.el_tasks import STOCK_TASKS, ELTaskMixin

TASKS = ["translation", "denoising"]
WORDS = dictionary(12)
SAMPLE = batch(WORDS, [12, 7, 5, 3])
OPTIONS = {
    "--el-attention": "el_attention",
    "--el-max-tokens": "el_max_tokens",
    "--el-products": "el_products",
    "--el-tensorboard": "el_tensorboard",
}


def build_task(name, **options):
    cfg = TASK_DATACLASS_REGISTRY[name](**options)
    words = dictionary(12)
    return TASK_REGISTRY[name](cfg, words, words) if "translation" in name else TASK_REGISTRY[name](cfg, words)


@pytest.mark.parametrize("name", STOCK_TASKS)
def test_the_twin_is_the_stock_task_with_our_options(name):
    stock, ours = TASK_REGISTRY[name], TASK_REGISTRY[f"el_{name}"]
    more = set(OPTIONS.values())
    if name == "translation":
        more |= {"eval_rouge", "eval_rouge_args", "eval_rouge_remove_bpe"}
    assert issubclass(ours, stock) and ours.__mro__[1] is ELTaskMixin
    options = []
    for task in (stock, ours):
        parser = argparse.ArgumentParser()
        task.add_args(parser)
        options.append({option for action in parser._actions for option in action.option_strings})
    assert options[1] - options[0] == {f"--{name.replace('_', '-')}" for name in more} and not options[0] - options[1]
    if name in TASK_DATACLASS_REGISTRY:
        fields = [set(TASK_DATACLASS_REGISTRY[task].__dataclass_fields__) for task in (name, f"el_{name}")]
        assert fields[1] - fields[0] == more and not fields[0] - fields[1]


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize("mode", ["auto", "on", "off"])
def test_generates_as_stock(name, mode):
    options = GenerationConfig(beam=3, max_len_b=15, diverse_beam_groups=3)
    task = build_task(name)
    model = build_model("transformer", task.target_dictionary, seed=1, gain=2.0)
    expected = task.inference_step(task.build_generator([model], options), [model], SAMPLE)
    task = build_task(f"el_{name}", el_attention=mode)
    generator = task.build_generator([model], options)
    assert type(generator) is ELSequenceGenerator
    attention = model.decoder.layers[0].self_attn
    assert type(attention) is (MultiheadAttention if mode == "off" else ELMultiheadAttention)
    assert_same_hypotheses(task.inference_step(generator, [model], SAMPLE), expected)


def test_the_default_is_auto():
    assert str(build_task("el_translation").cfg.el_attention) == "auto"


def test_products_are_tuned_or_fixed(monkeypatch):
    monkeypatch.setattr(TUNER, "fixed", False)
    for options, fixed in (
        ({}, False),
        ({"el_products": "tuned"}, False),
        ({"el_products": "fixed"}, True),
        ({}, True),
    ):
        task = build_task("el_translation", **options)
        task.build_generator([build_model("transformer", WORDS)], GenerationConfig())
        assert TUNER.fixed == fixed  # of the process, from then on


def test_generators_that_are_not_stocks_own_stay_what_they_are():
    class Custom(SequenceGenerator):
        pass

    task, model = build_task("el_translation"), build_model("transformer", WORDS)
    assert type(task.build_generator([model], GenerationConfig(), seq_gen_cls=Custom)) is Custom
    assert type(task.build_generator([model], GenerationConfig(score_reference=True))) is SequenceScorer
    aligned = task.build_generator([model], GenerationConfig(print_alignment="hard"))
    assert type(aligned) is ELSequenceGeneratorWithAlignment


def test_shards_log_to_folders_of_their_own(tmp_path):
    """They run at the same time, and TensorBoard would draw their points into one zigzag."""
    task = build_task("el_translation", el_tensorboard=str(tmp_path))
    config = OmegaConf.structured(FairseqConfig())
    config.common_eval.path = "model.pt"
    config.distributed_training.distributed_world_size, config.distributed_training.distributed_rank = 2, 1
    model = build_model("transformer", WORDS)
    generator = task.build_generator([model], config.generation)
    task.inference_step(generator, [model], SAMPLE)
    generator.statistics.report()
    (events,) = tmp_path.rglob("events.*")
    assert events.parent == tmp_path / "shard1"
    # A hub's generation has the configuration of the training command, and logs nothing.
    config.common_eval.path = None
    assert task.build_generator([model], config.generation).statistics.folder is None


def test_adopting_a_generator_leaves_it_as_it_was():
    model = build_model("transformer", WORDS)
    stock = SequenceGenerator([model], WORDS, no_repeat_ngram_size=2)
    blocker = stock.repeat_ngram_blocker
    twin = ELSequenceGenerator.adopt(stock)
    assert stock.repeat_ngram_blocker is blocker and twin.repeat_ngram_blocker is not blocker
    assert twin.model is stock.model and not hasattr(stock, "meter")
