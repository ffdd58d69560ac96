"""Two sharpness-aware optimizers in one loop: a generator and a critic, on points of a circle."""

import torch
from torch import nn
from torch.nn.functional import softplus

from lowland import SAM


def circle(n: int, generator: torch.Generator) -> torch.Tensor:
    angle = 2 * torch.pi * torch.rand(n, generator=generator)
    return torch.stack([angle.cos(), angle.sin()], dim=1)


def main() -> tuple[float, float]:
    torch.manual_seed(0)
    noise = torch.Generator().manual_seed(1)
    maker = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 2))
    critic = nn.Sequential(nn.Linear(2, 64), nn.ReLU(), nn.Linear(64, 1))
    # With BatchNorm, give each of them model=nn.ModuleList([maker, critic]): both networks run in
    # each second pass.
    settings = {"lr": 1e-3, "betas": (0.5, 0.99), "rho": 0.02}
    opt_maker = SAM(maker.parameters(), torch.optim.Adam, **settings)
    opt_critic = SAM(critic.parameters(), torch.optim.Adam, **settings)

    def distance() -> float:
        made = maker(torch.randn(500, 8, generator=torch.Generator().manual_seed(2)))
        return (made.norm(dim=1) - 1).abs().mean().item()

    before = distance()
    for step in range(400):
        real, z = circle(64, noise), torch.randn(64, 8, generator=noise)

        def critic_closure(real=real, z=z):
            opt_critic.zero_grad()  # also drops what the maker's backward left here
            made = maker(z).detach()
            loss = softplus(-critic(real)).mean() + softplus(critic(made)).mean()
            loss.backward()
            return loss

        def maker_closure(z=z):
            opt_maker.zero_grad()
            loss = softplus(-critic(maker(z))).mean()
            loss.backward()
            return loss

        critic_loss = opt_critic.step(critic_closure)
        maker_loss = opt_maker.step(maker_closure)
        if step % 100 == 99:
            print(f"step {step + 1}: critic {critic_loss:.3f}, maker {maker_loss:.3f}, "
                  f"distance from the circle {distance():.3f}")  # fmt: skip
    return before, distance()


if __name__ == "__main__":
    main()
