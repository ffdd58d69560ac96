"""Accelerate: accumulation, clipping and a schedule; float16 needs no other line."""

import torch
from accelerate import Accelerator
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import cross_entropy

from lowland import SAM
from lowland.integrations import report_skipped, sharpness_aware


def main() -> float:
    torch.manual_seed(0)
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=4)
    x, y = map(torch.as_tensor, load_digits(return_X_y=True))
    data = torch.utils.data.TensorDataset(x.float() / 16, y)

    net = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    sam = SAM(net.parameters(), torch.optim.SGD, lr=0.1, momentum=0.9, rho=0.05, model=net)
    model, optimizer, loader, schedule = accelerator.prepare(
        net,
        sam,
        torch.utils.data.DataLoader(data, batch_size=16, shuffle=True),
        torch.optim.lr_scheduler.ExponentialLR(sam, 0.99),
    )
    window = []

    def backward(batch):
        loss = cross_entropy(model(batch[0]), batch[1])
        accelerator.backward(loss)  # divides by the number of accumulation steps
        return loss.detach()

    for epoch in range(3):
        for batch in loader:
            window.append(batch)
            with accelerator.accumulate(model):
                loss = backward(batch)
                if accelerator.sync_gradients:  # the window is full: run it again at w+ε
                    with sharpness_aware(optimizer).perturbed(scaler=accelerator.scaler):
                        for earlier in window[:-1]:
                            with accelerator.no_sync(model):
                                backward(earlier)
                        backward(window[-1])
                    window.clear()
                    accelerator.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                if accelerator.sync_gradients:
                    report_skipped(optimizer)  # so that the schedule waits when a step is skipped
                schedule.step()
                optimizer.zero_grad()
        print(f"epoch {epoch}: loss of the last batch {loss:.3f}, {sam.last.metrics()}")

    accuracy = (net(x.float() / 16).argmax(1) == y).float().mean().item()
    print(f"train accuracy {accuracy:.3f}")
    return accuracy


if __name__ == "__main__":
    main()
