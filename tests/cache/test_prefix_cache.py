"""What attentions keep behind prompts of different lengths."""

import torch

from el_fairseq.cache.prefix import PromptedState, PromptLayout

CPU = torch.device("cpu")


def test_masks_hide_what_a_shorter_prompt_lacks_and_what_a_longer_one_has_not_generated():
    layout = PromptLayout([2, 3, 5], beams=2, device=CPU)
    layout.wake(1)
    assert layout.width == 2 and layout.paddings(3) == (None, None)
    layout.wake(2)
    padding, filler = layout.paddings(3)
    assert padding.tolist() == [[False, False, True], [False, False, False]]
    assert filler.tolist() == [[False] * 3] * 2 + [[True, False, False]] * 2
    layout.wake(3)
    padding, filler = layout.paddings(2)
    assert padding.sum(dim=1).tolist() == [3, 2, 0]
    assert filler.tolist() == [[False] * 2] * 2 + [[True, False]] * 2 + [[True, True]] * 2


def test_no_masks_where_all_prompts_that_go_on_are_of_one_length():
    layout = PromptLayout([2, 4, 4], beams=3, device=CPU)
    layout.wake(3)
    assert layout.paddings(1)[0] is not None
    assert layout.keep([1, 2]) == 2  # two tokens that only the first sentence had generated
    assert layout.paddings(1) == (None, None) and layout.width == 4 and layout.awake == 2
    layout = PromptLayout([2, 4, 4], beams=3, device=CPU)
    layout.wake(1)
    assert layout.keep([0, 2]) == 0 and layout.awake == 1 and layout.lengths == [2, 4]


def test_rows_begin_and_sentences_leave():
    layout = PromptLayout([2, 4], beams=2, device=CPU)
    prompt = torch.arange(2 * 4 * 1.0).view(2, 4, 1)
    state = PromptedState(0, prompt, layout)
    layout.wake(1)
    assert state.shared.tolist() == [[[0], [1]]]
    for token in (10.0, 20.0):
        state.append(torch.tensor([token, token + 1]).view(2, 1, 1), None)
    state.wake(2)
    layout.wake(2)
    assert torch.equal(state.shared, prompt)
    state.append(torch.tensor([30.0, 31, 32, 33]).view(4, 1, 1), None)
    assert state.cache.filled.squeeze(2).tolist() == [[10, 20, 30], [11, 21, 31], [0, 0, 32], [0, 0, 33]]
    filler = layout.keep([1])
    state.keep(torch.tensor([1]), filler)
    state.reorder(torch.tensor([3, 3]))
    assert state.cache.filled.squeeze(2).tolist() == [[33], [33]]
    assert torch.equal(state.shared, prompt[1:])


def test_nothing_is_left_of_rows_that_are_gone():
    layout = PromptLayout([2, 4], beams=2, device=CPU)
    state = PromptedState(0, torch.zeros(2, 4, 1), layout)
    layout.wake(1)
    state.append(torch.ones(2, 1, 1), None)
    state.keep(torch.tensor([1]), layout.keep([1]))
    assert state.cache.buffer is None and layout.awake == 0 and state.tensors() == [state.prompt]
    state.wake(2)
    layout.wake(1)
    state.append(torch.full((2, 1, 1), 5.0), None)
    assert state.cache.filled.flatten().tolist() == [5, 5]
