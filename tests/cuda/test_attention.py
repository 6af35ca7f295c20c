"""Attention in half precision on a GPU, by the kernel, against stock's in float64."""

import pytest
import torch
from fairseq.modules import MultiheadAttention
from helpers.models import assert_close

from el_fairseq.modules import ELMultiheadAttention

pytest.importorskip("triton")


def pair(dim, heads, dtype, **options):
    """Stock's attention in float64 and an EL attention of the same weights, both on the GPU."""
    torch.manual_seed(0)
    stock = MultiheadAttention(dim, heads, **options).to("cuda", dtype).double().eval()
    ours = ELMultiheadAttention(dim, heads, **options).to("cuda", dtype).eval()
    ours.load_state_dict(stock.state_dict())
    return ours, stock


def random(*shape, dtype):
    return torch.randn(*shape, device="cuda").to(dtype)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", [(1, 1, 63, 512, 8), (3, 4, 65, 768, 12), (2, 4, 300, 1024, 16)], ids=str)
@torch.no_grad()
def test_cross_attention(shape, dtype, verified):
    sentences, beams, length, dim, heads = shape
    ours, stock = pair(dim, heads, dtype, encoder_decoder_attention=True)
    source = random(length, sentences, dim, dtype=dtype)
    padding = torch.arange(length, device="cuda") >= torch.randint(1, length + 1, (sentences, 1), device="cuda")
    padding[0] = False
    for_beams = source.double().repeat_interleave(beams, dim=1)
    for _ in range(3):  # a trial, then the kernel
        query = random(1, sentences * beams, dim, dtype=dtype)
        options = {"incremental_state": {}, "static_kv": True, "need_weights": False}
        actual, _ = ours(query, source, source, padding, **options)
        options["incremental_state"] = {}
        rows = padding.repeat_interleave(beams, dim=0)
        expected, _ = stock(query.double(), for_beams, for_beams, rows, **options)
        assert_close(actual.double(), expected, {torch.float16: 1e-2, torch.bfloat16: 5e-2}[dtype])
    assert list(verified.values()) == [True]


@torch.no_grad()
def test_self_attention_grows_and_follows_beams(verified):
    ours, stock = pair(512, 8, torch.float16, self_attention=True)
    states, rows = ({}, {}), 12
    for step in range(40):
        x = random(1, rows, 512, dtype=torch.float16)
        actual, _ = ours(x, x, x, incremental_state=states[0], need_weights=False)
        expected, _ = stock(*[x.double()] * 3, incremental_state=states[1], need_weights=False)
        assert_close(actual.double(), expected, 1e-2)
        rows -= 4 if step == 20 else 0
        order = torch.randint(0, rows, (rows,), device="cuda")
        for attention, state in zip((ours, stock), states):
            attention.reorder_incremental_state(state, order)
    assert verified and all(verified.values())


@torch.no_grad()
def test_a_captured_step_is_the_step(verified):
    ours, _ = pair(512, 8, torch.float16, encoder_decoder_attention=True)
    query, source = random(1, 8, 512, dtype=torch.float16), random(70, 2, 512, dtype=torch.float16)
    options = {"incremental_state": {}, "static_kv": True, "need_weights": False}

    def step():
        return ours(query, source, source, **options)[0]

    step()
    expected = step()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        actual = step()
    actual.zero_()
    graph.replay()
    assert_close(actual, expected)
    assert list(verified.values()) == [True]
