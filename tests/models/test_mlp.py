"""The fully connected network, recomputed with NumPy."""

from __future__ import annotations

import numpy as np
import torch

from lowland.models import create


def test_features_and_logits() -> None:
    torch.manual_seed(0)
    model = create("mlp", shape=(3, 4, 5), classes=6, width=7).double()
    for tensor in (model.block1[0].bias, model.block2[0].bias, model.head.bias):
        torch.nn.init.normal_(tensor)
    state = {name: value.numpy() for name, value in model.state_dict().items()}
    x = torch.randn(9, 3, 4, 5, dtype=torch.float64)
    h = x.numpy().reshape(9, 60)
    with torch.no_grad():
        one = model.block1(model.flatten(x))
        two = model.block2(one)
        logits = model(x)
    for block, out in (("block1", one), ("block2", two)):
        h = np.maximum(0, h @ state[f"{block}.0.weight"].T + state[f"{block}.0.bias"])
        np.testing.assert_allclose(out, h, rtol=1e-12, atol=1e-12)
    expected = h @ state["head.weight"].T + state["head.bias"]
    np.testing.assert_allclose(logits, expected, rtol=1e-12, atol=1e-12)
