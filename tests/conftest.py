"""Every test starts alike: offline, on one thread, with nothing left by the last one.

Torch is never imported here, so that tests that need none of it stay fast.
"""

import os
import sys

import pytest
from hypothesis import settings

os.environ["HF_HUB_OFFLINE"] = "1"

settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")


@pytest.fixture(autouse=True)
def _alike():
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)
    yield
    if "accelerate" in sys.modules:
        sys.modules["accelerate"].state.AcceleratorState._reset_state(True)
