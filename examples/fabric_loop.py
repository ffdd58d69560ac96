"""Fabric: a closure that accumulates four micro-batches, in bfloat16."""

import torch
from lightning_fabric import Fabric  # or: from lightning.fabric import Fabric
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import cross_entropy

from lowland import SAM


def main() -> float:
    torch.manual_seed(0)
    # in float16: Fabric(plugins=SharpnessAwareMixedPrecision("16-mixed", "cuda")) from
    # lowland.integrations.fabric
    fabric = Fabric(accelerator="cpu", devices=1, precision="bf16-mixed")
    x, y = map(torch.as_tensor, load_digits(return_X_y=True))
    data = torch.utils.data.TensorDataset(x.float() / 16, y)
    loader = torch.utils.data.DataLoader(data, batch_size=16, shuffle=True)

    net = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    sam = SAM(net.parameters(), torch.optim.SGD, lr=0.1, momentum=0.9, rho=0.05, model=net)
    model, opt = fabric.setup(net, sam)
    loader = fabric.setup_dataloaders(loader)

    for epoch in range(3):
        window = []
        for i, batch in enumerate(loader):
            window.append(batch)
            if len(window) < 4 and i < len(loader) - 1:
                continue

            def closure(window=window):
                opt.zero_grad()
                total = torch.zeros((), device=fabric.device)
                for k, (inputs, target) in enumerate(window):
                    # only the last micro-batch of a pass exchanges gradients between devices
                    with fabric.no_backward_sync(model, enabled=k < len(window) - 1):
                        loss = cross_entropy(model(inputs), target) / len(window)
                        fabric.backward(loss)
                    total += loss.detach()
                return total

            opt.step(closure)
            window = []
        print(f"epoch {epoch}: {opt.last.metrics()}")

    accuracy = (model(x.float() / 16).argmax(1) == y).float().mean().item()
    print(f"train accuracy {accuracy:.3f}")
    return accuracy


if __name__ == "__main__":
    main()
