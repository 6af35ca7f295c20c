"""What fairseq's loop is fed with, and what becomes of what it prints."""

import numpy as np
import pytest
import torch
from helpers.sharded_work import BATCHES, lines_of_sentence
from sharding.generation import Feed, NothingLeft


class Numbers(torch.utils.data.Dataset):
    def __getitem__(self, index):
        return index

    def __len__(self):
        return 7

    def collater(self, samples):
        return samples


def feed_of(work, seed=1):
    feed = Feed(work, "w", seed)
    feed.start(Numbers(), {"num_workers": 0, "buffer_size": 0})
    return feed


def test_a_unit_is_done_when_the_loop_asks_for_more(work):
    feed = feed_of(work)
    assert len(feed) == 4
    for number, batch in enumerate(feed.next_epoch_itr(shuffle=False)):
        assert batch == BATCHES[number] and work.leases() == {"w": number}
        assert [work.is_done(unit) for unit in range(4)] == [unit < number for unit in range(4)]
        print("".join(map(lines_of_sentence, batch)), end="", file=feed)
    print("Generate test with beam=5: BLEU4 = 1.00", file=feed)
    assert all(map(work.is_done, range(4))) and not work.leases()
    assert "".join(work.read(3)) == lines_of_sentence(4) + lines_of_sentence(5)


def test_units_of_others_are_left_alone(work):
    assert work.claim("other") == 0
    for batch in feed_of(work).next_epoch_itr(shuffle=False):
        assert batch != BATCHES[0]
        work.result(work.leases()["w"]).touch()
        work.finish = lambda unit, printed: work.release(unit)
    with pytest.raises(NothingLeft):
        feed_of(work)
    assert work.leases() == {"other": 0}


def draws(work, seed, skip=()):
    """{first sentence of a batch: what is drawn for it}"""
    drawn = {}
    for batch in feed_of(work, seed)._samples([batch for batch in BATCHES if batch[0] not in skip]):
        drawn[batch[0]] = (torch.rand(1).item(), np.random.rand())
    work.release_all_of("w")
    return drawn


def test_what_is_drawn_for_a_batch_depends_on_the_seed_and_nothing_before(work):
    all_batches, fewer, another = draws(work, 7), draws(work, 7, skip=(3, 6)), draws(work, 8)
    assert fewer.items() < all_batches.items()
    numbers = [number for drawn in (all_batches, another) for pair in drawn.values() for number in pair]
    assert len(set(numbers)) == 16
