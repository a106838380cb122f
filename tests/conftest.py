"""Every test starts alike: offline, on one thread, with nothing left by the last one.

Torch is imported here for tests on a GPU only, so that tests that need none of it stay
fast.
"""

import os
import sys

import pytest
from hypothesis import settings

os.environ["HF_HUB_OFFLINE"] = "1"

settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Tests marked `gpu` need one."""
    if item.get_closest_marker("gpu"):
        import torch

        if not torch.accelerator.is_available():
            pytest.skip("torch finds no accelerator here")


@pytest.fixture(autouse=True)
def _alike():
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)
    yield
    if "accelerate" in sys.modules:
        sys.modules["accelerate"].state.AcceleratorState._reset_state(True)
