"""What every test shares: the same seeds, and one thread for tensors too small to share."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from hypothesis import settings

torch.set_num_threads(1)

# A timing is no property of the code on a machine that does other work as well.
settings.register_profile("echelon", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("echelon")


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Each test begins from the same seeds and threads, whichever ran before it."""
    torch.set_num_threads(1)
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002, for libraries that still draw from it
    torch.manual_seed(0)
