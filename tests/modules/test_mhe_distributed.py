"""PyTorch's own DistributedDataParallel trains MHE attention without ``find_unused_parameters``."""

import pytest
import torch
import torch.distributed as dist
from torch import multiprocessing
from torch.nn.parallel import DistributedDataParallel

from el_fairseq.modules import MHEAttention

RANKS, STEPS = 2, 3


def build(variant):
    torch.manual_seed(0)
    return MHEAttention(12, 3, variant=variant, self_attention=True).double()


def inputs(step, rank):
    return torch.randn(5, 2, 12, generator=torch.Generator().manual_seed(10 * step + rank), dtype=torch.float64)


def step_of(attention, optimizer, xs):
    """One update by the mean over ``xs``."""
    optimizer.zero_grad()
    sum(attention(x, x, x, need_weights=False)[0].pow(2).mean() for x in xs).div(len(xs)).backward()
    optimizer.step()


def work(rank, variant, folder):
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=RANKS)
    attention = build(variant)
    wrapped = DistributedDataParallel(attention)
    optimizer = torch.optim.SGD(attention.parameters(), lr=0.1)
    for step in range(STEPS):  # where a parameter has no gradient, the second step raises
        step_of(wrapped, optimizer, [inputs(step, rank)])
    gradient = attention.k_head_embed.grad
    assert gradient is not None and bool(gradient.any()) == (variant == "mul")
    torch.save(attention.state_dict(), f"{folder}/{rank}.pt")
    dist.barrier()  # gloo aborts a process whose peer has gone first
    del wrapped
    dist.destroy_process_group()


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["mul", "add"])
def test_two_processes_train_what_one_trains_on_all(variant, tmp_path):
    # children of a fork server leave without C++'s destructors, in which gloo's threads can abort
    multiprocessing.start_processes(work, (variant, str(tmp_path)), nprocs=RANKS, start_method="forkserver")
    attention = build(variant)
    optimizer = torch.optim.SGD(attention.parameters(), lr=0.1)
    for step in range(STEPS):
        step_of(attention, optimizer, [inputs(step, rank) for rank in range(RANKS)])
    for rank in range(RANKS):
        state = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        for name, expected in attention.state_dict().items():
            torch.testing.assert_close(state[name], expected, rtol=1e-9, atol=1e-9)
