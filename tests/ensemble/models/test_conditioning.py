"""Every condition is batched, repeated and silenced like the images that it is of."""

import pytest
import torch

from ensemble.models.conditioning import UNCONDITIONAL, ClassLabels, TextEmbeddings


def labels():
    return ClassLabels(torch.tensor([2, 0, 1, 2]), null_label=3)


def texts():
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(4, 5, 6, generator=generator)
    return TextEmbeddings(states, torch.zeros(5, 6))


KINDS = {"nothing": lambda: UNCONDITIONAL, "labels": labels, "texts": texts}


@pytest.fixture(params=KINDS)
def condition(request):
    return KINDS[request.param]()


def told(condition):
    """What a denoiser is given, as lists by name."""
    return {name: value.tolist() for name, value in condition.arguments().items()}


@pytest.mark.parametrize("chosen", [slice(1, 3), torch.tensor([3, 3, 0])])
def test_entries_are_chosen_as_images_are(condition, chosen):
    for name, value in condition.arguments().items():
        assert told(condition[chosen])[name] == value[chosen].tolist()
    assert condition[chosen].is_unconditional == condition.is_unconditional


def test_entries_are_repeated_side_by_side(condition):
    for name, value in condition.arguments().items():
        found = condition.repeat(3).arguments()[name]
        assert found.tolist() == value[[0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]].tolist()
    assert told(condition.repeat(1)) == told(condition)


def test_a_null_condition_says_the_same_of_all_images(condition):
    null = condition.null()
    for name, value in null.arguments().items():
        assert value.shape == condition.arguments()[name].shape
        assert (value == value[:1]).all()
        assert told(null.null()) == told(null)
    assert (told(null) == told(condition)) == condition.is_unconditional


def test_a_digest_tells_conditions_apart(condition):
    if condition.is_unconditional:
        assert condition.digest() is None
        return
    assert condition.digest() == condition[:].digest()
    others = [condition[:2], condition[[1, 0, 2, 3]], condition.null()]
    assert len({condition.digest(), *(one.digest() for one in others)}) == 4


def test_texts_of_the_same_numbers_but_other_lengths_are_told_apart():
    numbers = torch.arange(150.0)
    short = TextEmbeddings(numbers[:120].view(4, 5, 6), numbers[120:].view(5, 6))
    long = TextEmbeddings(numbers[:100].view(2, 10, 5), numbers[100:].view(10, 5))
    assert short.digest() != long.digest()


def test_a_condition_moves_as_a_whole(condition):
    moved = condition.to("meta")
    assert {value.device.type for value in moved.arguments().values()} <= {"meta"}
    assert all(
        value.device.type == "meta" for value in moved.null().arguments().values()
    )


def test_some_labels_can_be_hidden():
    hidden = labels().hidden(torch.tensor([True, False, False, True]))
    assert hidden.labels.tolist() == [3, 0, 1, 3]
