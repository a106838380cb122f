"""What is to be loaded, and of what type, is taken in one form or refused."""

import numpy as np
import pytest
import torch

from ensemble.sampling import load_arguments
from splits.errors import BadInput


@pytest.mark.parametrize(
    "members", [2, [2], (2,), np.array([2]), range(2, 3)], ids=repr
)
def test_members_are_numbers_in_any_form(members):
    assert load_arguments.checked_members(members) == [2]
    assert load_arguments.checked_members(None) is None
    assert load_arguments.checked_members([3, 1]) == [3, 1]


@pytest.mark.parametrize("members", [[], "0", True, [0.0], [[0]], "all"], ids=repr)
def test_what_is_no_member_is_refused(members):
    with pytest.raises(BadInput, match="members is .*allowed: the number of a member"):
        load_arguments.checked_members(members)


def test_a_member_that_is_named_twice_is_refused():
    with pytest.raises(BadInput, match="members names 1 more than once"):
        load_arguments.checked_members([0, 1, 1])


def test_a_dtype_has_two_names_and_may_be_given_by_part():
    half, whole = torch.float16, torch.float32
    assert load_arguments.checked_dtype() is None
    assert load_arguments.checked_dtype(half) == half
    assert load_arguments.checked_dtype(torch_dtype=half) == half
    assert load_arguments.checked_dtype(half, half) == half
    assert load_arguments.checked_dtype({"members": half, "default": whole}) == half
    assert load_arguments.checked_dtype({"default": half}) == half
    assert load_arguments.checked_dtype({"scheduler": half}) == whole
    with pytest.raises(BadInput, match=r"dtype is torch\.float16 and torch_dtype is"):
        load_arguments.checked_dtype(half, whole)


@pytest.mark.parametrize(
    "dtype", ["float16", "auto", torch.int8, float, np.float16, 16]
)
def test_a_dtype_that_is_none_of_floats_is_refused(dtype):
    for given in (
        {"dtype": dtype},
        {"torch_dtype": dtype},
        {"dtype": {"members": dtype}},
    ):
        with pytest.raises(
            BadInput, match=r"dtype is .*a torch\.dtype is wanted, one of"
        ):
            load_arguments.checked_dtype(**given)


@pytest.mark.parametrize("variant", ["", "../fp16", "fp16.x", 16, "a b", ["fp16"]])
def test_a_variant_is_a_plain_word(variant):
    with pytest.raises(BadInput, match="variant is .*allowed: letters, digits and `_`"):
        load_arguments.checked_variant(variant)
    assert load_arguments.checked_variant("fp16") == "fp16"
    assert load_arguments.checked_variant("non_ema") == "non_ema"
    assert load_arguments.checked_variant(None) is None
