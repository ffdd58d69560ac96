"""Principal components of a trajectory, against scikit-learn on flattened weights."""

from __future__ import annotations

import copy
import json

import numpy as np
import pytest
import torch
from measure_cases import batches, per_example, small_net
from sklearn.decomposition import PCA
from torch import Tensor

from lowland.core.errors import InputError
from lowland.measure.surface import loss_plane, mean_loss, trajectory_directions


def run_of(count: int) -> tuple[torch.nn.Module, list[dict[str, Tensor]]]:
    """A network and the checkpoints before it: a drifting random walk."""
    model = small_net()
    generator = torch.Generator().manual_seed(0)
    states, state = [], copy.deepcopy(model.state_dict())
    drift = {n: torch.randn(t.shape, generator=generator) for n, t in model.named_parameters()}
    for i in range(count):
        for name in drift:
            state[name] = (
                state[name]
                + (0.1 + 0.05 * i) * drift[name]
                + 0.1 * torch.randn(drift[name].shape, generator=generator)
            )
        states.append(dict(state))
    return model, states


def flat(model, state) -> np.ndarray:
    named = dict(model.named_parameters())
    return np.concatenate([(state[n] - p.detach()).double().flatten() for n, p in named.items()])


def flat_direction(model, direction) -> np.ndarray:
    return np.concatenate([direction.steps[n].flatten() for n, _ in model.named_parameters()])


def test_it_is_the_pca_of_the_differences() -> None:
    model, states = run_of(6)
    rows = np.stack([flat(model, s) for s in states])
    oracle = PCA(2).fit(rows)
    record = trajectory_directions(model, states)
    assert record.explained == pytest.approx(tuple(oracle.explained_variance_ratio_), rel=1e-8)
    assert record.value == pytest.approx(sum(record.explained))
    found = np.stack([flat_direction(model, d) for d in record.directions])
    assert np.abs(found @ oracle.components_.T) == pytest.approx(np.eye(2), abs=1e-8)
    assert found @ found.T == pytest.approx(np.eye(2), abs=1e-8)
    assert np.array(record.coordinates) == pytest.approx(rows @ found.T, rel=1e-6, abs=1e-8)
    captured = ((rows @ found.T) ** 2).sum() / (rows**2).sum()
    assert record.captured == pytest.approx(captured)


def test_not_centred_it_is_the_best_plane_through_the_weights() -> None:
    model, states = run_of(5)
    rows = np.stack([flat(model, s) for s in states])
    sigma = np.linalg.svd(rows, compute_uv=False)
    record = trajectory_directions(model, states, center="none")
    assert record.captured == pytest.approx((sigma[:2] ** 2).sum() / (sigma**2).sum())
    assert record.captured >= trajectory_directions(model, states).captured


def test_the_plane_has_the_checkpoints_where_their_coordinates_say() -> None:
    """Two checkpoints span a plane through w that holds them: their losses are on it."""
    model, states = run_of(2)
    record = trajectory_directions(model, states, center="none")
    assert record.captured == pytest.approx(1.0)
    (a, b), other = record.coordinates[0], copy.deepcopy(model)
    for state in states:
        state.update({n: t for n, t in model.state_dict().items() if "running" in n or "num" in n})
    other.load_state_dict(states[0])
    plane = loss_plane(
        model, per_example, batches(), directions=record.directions, span=(abs(a), abs(b)), points=3
    )
    found = plane.losses[2 if a > 0 else 0, 2 if b > 0 else 0]
    assert found == pytest.approx(mean_loss(other, per_example, batches()).value, rel=1e-4)


def test_blocks_and_biases() -> None:
    model, states = run_of(4)
    block = trajectory_directions(model, states, parameters="head")
    assert set(block.directions[0].steps) == {"head.weight", "head.bias"}
    ignored = trajectory_directions(model, states, biases="ignore")
    assert "head.bias" not in ignored.directions[0].steps


def test_the_record_is_ready_for_json_and_the_model_untouched() -> None:
    model, states = run_of(3)
    before = copy.deepcopy(model.state_dict())
    record = trajectory_directions(model, states)
    found = json.loads(json.dumps(record.to_dict()))
    assert len(found["coordinates"]) == found["checkpoints"] == 3
    assert "directions" not in found
    assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())


def test_bad_trajectories() -> None:
    model, states = run_of(3)
    line = [{n: t * f for n, t in model.state_dict().items()} for f in (0.5, 0.8, 0.9)]
    broken = [*states, {n: t * float("nan") for n, t in states[0].items()}]
    for given, options, message in (
        (states[:1], {}, "checkpoints: 1; a plane needs at least two"),
        (line, {}, "checkpoints: they lie on a line"),
        (broken, {}, "checkpoints: weights that are not finite"),
        ([{}, {}], {}, "checkpoint 0: has no 'block1.0.bias' and 10 more, which the model has"),
        (states, {"center": "last"}, "unknown center 'last'"),
        (states, {"biases": "drop"}, "unknown biases 'drop'"),
    ):
        with pytest.raises(InputError) as caught:
            trajectory_directions(model, given, **options)
        assert str(caught.value).startswith(message)
