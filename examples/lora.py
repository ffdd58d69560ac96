"""LoRA adapters: only they are perturbed and stepped, and the copy of the weights is theirs."""

import torch
from peft import LoraConfig, get_peft_model
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import cross_entropy

from lowland import SAM


def train(model: nn.Module, opt: torch.optim.Optimizer, x, y, steps: int) -> float:
    for _ in range(steps):

        def closure():
            opt.zero_grad()
            loss = cross_entropy(model(x), y)
            loss.backward()
            return loss

        opt.step(closure)
    return (model(x).argmax(1) == y).float().mean().item()


def main() -> tuple[float, float]:
    torch.manual_seed(0)
    images, labels = map(torch.as_tensor, load_digits(return_X_y=True))
    x = images.float() / 16
    turned = x.view(-1, 8, 8).transpose(1, 2).reshape(-1, 64)  # the same digits, mirrored

    net = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    train(net, torch.optim.AdamW(net.parameters(), lr=1e-2), x, labels, steps=40)
    before = (net(turned).argmax(1) == labels).float().mean().item()
    print(f"mirrored digits, before: accuracy {before:.3f}")

    model = get_peft_model(net, LoraConfig(r=4, target_modules=["0", "2"]))
    adapters = [p for p in model.parameters() if p.requires_grad]
    opt = SAM(adapters, torch.optim.AdamW, lr=1e-2, rho=0.05, model=model)
    after = train(model, opt, turned, labels, steps=60)
    count, total = sum(p.numel() for p in adapters), sum(p.numel() for p in model.parameters())
    print(f"after {count} of {total} parameters were trained: accuracy {after:.3f}")
    return before, after


if __name__ == "__main__":
    main()
