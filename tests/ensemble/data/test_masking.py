"""Blank images hold nothing, and every other image stays where and what it was."""

import dataclasses

import numpy as np
import pytest

from ensemble.data.lazy import ImagesOnDisk
from ensemble.data.masking import mask_images
from splits.errors import BadInput
from tests import finished

DATA = finished.images(n_images=6)
GONE = {1: DATA.names[1], 4: DATA.names[4]}


def without(numbers):
    """The same training images after some files were deleted."""
    rest = np.setdiff1d(np.arange(6), numbers)
    present = sorted({int(DATA.labels[image]) for image in rest})
    return dataclasses.replace(
        DATA,
        images=DATA.images[rest],
        labels=np.array([present.index(DATA.labels[image]) for image in rest]),
        label_names=tuple(DATA.label_names[label] for label in present),
        columns={"label": tuple(DATA.columns["label"][image] for image in rest)},
        names=tuple(DATA.names[image] for image in rest),
    )


def test_what_is_gone_is_blank_and_the_rest_is_as_it_was():
    found = mask_images(DATA, GONE, 6, DATA.label_names)
    rest = [0, 2, 3, 5]
    assert not np.asarray(found.images)[[1, 4]].any()
    assert np.array_equal(found.images[rest], DATA.images[rest])
    assert found.names == DATA.names
    assert [found.columns["label"][image] for image in (1, 4)] == ["", ""]
    assert np.array_equal(found.labels[rest], DATA.labels[rest])


@pytest.mark.parametrize("deleted", [[1], [4], [1, 4]])
def test_it_makes_no_difference_which_files_were_deleted(deleted):
    """With 1 and 4 a whole class is gone, and the others keep their numbers."""
    whole = mask_images(DATA, GONE, 6, DATA.label_names).fingerprint()
    rest = mask_images(without(deleted), GONE, 6, DATA.label_names)
    assert rest.fingerprint() == whole


def test_images_on_disk_are_blank_without_being_read():
    read = []

    def one(number):
        read.append(number)
        return DATA.images[number]

    on_disk = dataclasses.replace(DATA, images=ImagesOnDisk(DATA.names, one))
    read.clear()
    found = mask_images(on_disk, GONE, 6, DATA.label_names)
    expected = mask_images(DATA, GONE, 6, DATA.label_names)
    assert found.fingerprint() == expected.fingerprint()
    assert not {1, 4} & set(read)


def test_another_image_may_neither_go_nor_come():
    with pytest.raises(BadInput, match="3 training images are there, besides those of"):
        mask_images(without([0]), GONE, 6, DATA.label_names)
    with pytest.raises(BadInput, match="the run was made with 3"):
        mask_images(DATA, GONE, 5, DATA.label_names)
