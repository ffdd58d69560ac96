"""Federated rounds whose clients are spread over devices are those of one process."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from federated_cases import KINDS, rounds, small
from problems import equal, weights
from ranks import run


@pytest.mark.slow
def test_clients_spread_over_devices_and_sharded_networks(tmp_path: Path) -> None:
    results = run("federated_cases", "everywhere", 2, tmp_path)
    for name in KINDS:
        model = small()
        rounds(name, model, model)
        for how in ("DDP", "FSDP2"):
            found = results[0][f"{name} {how}"]
            assert equal(found, results[1][f"{name} {how}"])
            for a, b in zip(found, weights(model), strict=True):
                torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-12)
    for result in results:
        assert "[4, 5] examples of this batch" in result["ragged"]
        assert result["unmoved"]
