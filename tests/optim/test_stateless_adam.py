"""Adam without memory is the first step of torch's Adam, again and again."""

from __future__ import annotations

import torch

from lowland.optim import SAM, StatelessAdam


def weights() -> torch.nn.Parameter:
    return torch.nn.Parameter(torch.linspace(-1, 1, 6, dtype=torch.float64))


def gradient(step: int) -> torch.Tensor:
    draws = torch.Generator().manual_seed(step)
    return torch.randn(6, dtype=torch.float64, generator=draws) * 10.0 ** (-step)


def test_every_step_is_the_first_of_adam() -> None:
    ours, reference = weights(), weights()
    optimizer = StatelessAdam([ours], lr=0.1, weight_decay=0.01)
    for step in range(9):
        fresh = torch.optim.Adam([reference], lr=0.1, weight_decay=0.01)
        ours.grad, reference.grad = gradient(step), gradient(step)
        optimizer.step()
        fresh.step()
        assert torch.allclose(ours, reference, rtol=0, atol=1e-12)
    assert optimizer.state_dict()["state"] == {}


def test_it_is_the_sign_of_the_gradient_times_the_learning_rate() -> None:
    p = weights()
    before = p.detach().clone()
    p.grad = torch.tensor([3.0, -2.0, 1e-3, -1e-5, 0.0, 1e-8], dtype=torch.float64)
    StatelessAdam([p], lr=0.1).step()
    moved = ((p.detach() - before) / 0.1).tolist()
    assert [round(value, 2) for value in moved] == [-1.0, 1.0, -1.0, 1.0, 0.0, -0.5]


def test_it_is_a_base_of_sam_and_takes_closures() -> None:
    p = weights()
    optimizer = SAM([p], StatelessAdam, lr=0.1, rho=0.5)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = (p**4).sum()
        loss.backward()
        return loss

    w = p.detach().clone()
    g = 4 * w**3
    perturbed = w + 0.5 * g / g.norm()
    optimizer.step(closure)
    expected = w - 0.1 * (4 * perturbed**3).sign()
    assert torch.allclose(p.detach(), expected, atol=1e-6)
    plain = StatelessAdam([p], lr=0.1)
    assert plain.step(lambda: float((p.detach() ** 2).sum())) > 0
    parameter_without_gradient = torch.nn.Parameter(torch.ones(2))
    StatelessAdam([parameter_without_gradient]).step()
    assert parameter_without_gradient.tolist() == [1.0, 1.0]
