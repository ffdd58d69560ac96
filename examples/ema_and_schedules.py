"""Schedules, averaged weights, groups with a ρ of their own, and a body that thaws later."""

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import cross_entropy
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, update_bn

from lowland import SAM


def main() -> dict[str, float]:
    torch.manual_seed(0)
    images, labels = map(torch.as_tensor, load_digits(return_X_y=True))
    x, y = images.float() / 16, labels
    train = torch.utils.data.TensorDataset(x[:1400], y[:1400])
    loader = torch.utils.data.DataLoader(train, batch_size=64, shuffle=True)

    body = nn.Sequential(nn.Linear(64, 64), nn.BatchNorm1d(64), nn.ReLU())
    head = nn.Linear(64, 10)
    model = nn.Sequential(body, head)
    groups = [
        {"params": [p for p in body.parameters() if p.ndim > 1]},  # ρ as below
        {"params": [p for p in body.parameters() if p.ndim == 1], "rho": 0.0},  # not perturbed
        {"params": head.parameters(), "rho": 0.1, "lr": 0.05},
    ]
    opt = SAM(groups, torch.optim.SGD, lr=0.1, momentum=0.9, rho=0.05, model=model)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(opt, T_max=6 * len(loader))
    averaged = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.98))

    body.requires_grad_(False)  # the optimizer holds it already; without gradients it stays put
    for epoch in range(6):
        if epoch == 2:
            body.requires_grad_(True)
        for inputs, target in loader:

            def closure(inputs=inputs, target=target):
                opt.zero_grad()
                loss = cross_entropy(model(inputs), target)
                loss.backward()
                return loss

            opt.step(closure)
            schedule.step()
            averaged.update_parameters(model)  # after the step, when the weights are w
        rhos = [group["rho"] for group in opt.param_groups]
        rate = opt.param_groups[0]["lr"]
        print(f"epoch {epoch}: loss {opt.last.loss:.3f}, learning rate {rate:.3f}, ρ {rhos}")

    update_bn(loader, averaged)
    accuracy = {}
    for name, network in (("last weights", model), ("averaged weights", averaged)):
        network.eval()
        accuracy[name] = (network(x[1400:]).argmax(1) == y[1400:]).float().mean().item()
        print(f"{name}: test accuracy {accuracy[name]:.3f}")
    return accuracy


if __name__ == "__main__":
    main()
