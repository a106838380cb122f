"""A checkpoint is whole, or damaged, or out of reach: three things, not two."""

from pathlib import Path

import pytest
import torch

from ensemble.training import checkpoint
from splits.errors import BadInput


@pytest.fixture
def path(tmp_path):
    checkpoint.write(tmp_path / "a", {"x": torch.arange(3)}, {"step": 4})
    return tmp_path / "a"


def test_it_reads_back(path):
    tensors, facts = checkpoint.read(path)
    assert tensors["x"].tolist() == [0, 1, 2]
    assert facts == {"step": 4}


def test_damage_costs_steps_only(path):
    path.write_bytes(path.read_bytes()[:-1])
    assert checkpoint.read(path) is None


def test_what_may_not_be_read_is_not_begun_anew(path, monkeypatch):
    def denied(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", denied)
    with pytest.raises(BadInput, match="Cannot read .*a: Permission denied"):
        checkpoint.read(path)
