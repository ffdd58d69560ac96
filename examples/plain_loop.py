"""A plain loop: the second pass in a context, clipping, a schedule, what each step measured."""

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import cross_entropy

from lowland import SAM


def main() -> float:
    torch.manual_seed(0)
    images, labels = map(torch.as_tensor, load_digits(return_X_y=True))
    x, y = images.float() / 16, labels
    train = torch.utils.data.TensorDataset(x[:1400], y[:1400])
    loader = torch.utils.data.DataLoader(train, batch_size=64, shuffle=True)

    model = nn.Sequential(nn.Linear(64, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 10))
    opt = SAM(model.parameters(), torch.optim.SGD, lr=0.1, momentum=0.9, rho=0.05, model=model)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(opt, T_max=5 * len(loader))

    for epoch in range(5):
        model.train()
        for inputs, target in loader:
            opt.zero_grad()
            loss = cross_entropy(model(inputs), target)
            loss.backward()
            with opt.perturbed(loss=loss) as second:  # inside, the weights are w+ε
                perturbed_loss = cross_entropy(model(inputs), target)
                perturbed_loss.backward()
                second.record(perturbed_loss)
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)  # the gradient that is descended
            opt.step()
            schedule.step()
        measured = opt.last.metrics()
        print(f"epoch {epoch}: loss {measured['loss']:.3f}, sharpness {measured['sharpness']:.3f}")

    model.eval()
    accuracy = (model(x[1400:]).argmax(1) == y[1400:]).float().mean().item()
    print(f"test accuracy {accuracy:.3f}")
    return accuracy


if __name__ == "__main__":
    main()
