"""Shared settings: one thread, so that results do not depend on the machine's cores."""

from __future__ import annotations

import pytest
import torch
from hypothesis import settings

settings.register_profile("lowland", deadline=None, max_examples=25, derandomize=True)
settings.load_profile("lowland")


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)
