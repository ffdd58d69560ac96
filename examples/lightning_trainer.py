"""Lightning: the optimizer alone; and accumulation, which needs manual optimization."""

import pytorch_lightning as pl  # or: import lightning.pytorch as pl
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import cross_entropy

from lowland import SAM
from lowland.integrations import at_perturbed_weights
from lowland.integrations.lightning import SharpnessAwareCallback


class Digits(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))

    def training_step(self, batch, batch_idx):
        loss = cross_entropy(self.net(batch[0]), batch[1])
        if not at_perturbed_weights(self.optimizers()):  # this runs at w and again at w+ε
            self.log("train_loss", loss, on_step=False, on_epoch=True)
        return loss

    def configure_optimizers(self):
        parameters = self.net.parameters()
        return SAM(parameters, torch.optim.SGD, lr=0.1, momentum=0.9, rho=0.05, model=self.net)


class Accumulating(Digits):
    """One optimizer step per four batches: they are kept, and one closure runs them all."""

    def __init__(self):
        super().__init__()
        self.automatic_optimization = False
        self.window = []

    def training_step(self, batch, batch_idx):
        self.window.append(batch)
        if len(self.window) == 4 or self.trainer.is_last_batch:
            self.optimizers().step(self.closure)
            self.window.clear()

    def closure(self):
        self.optimizers().zero_grad()
        losses = [cross_entropy(self.net(x), y) / len(self.window) for x, y in self.window]
        for loss in losses:
            self.manual_backward(loss)
        return torch.stack(losses).sum().detach()


def main() -> dict[str, float]:
    x, y = map(torch.as_tensor, load_digits(return_X_y=True))
    data = torch.utils.data.TensorDataset(x.float() / 16, y)
    accuracy = {}
    for kind, batch_size in ((Digits, 64), (Accumulating, 16)):
        pl.seed_everything(0, verbose=False)
        # on a GPU in float16: plugins=[SharpnessAwareMixedPrecision("16-mixed", "cuda")]
        trainer = pl.Trainer(
            max_epochs=3, accelerator="cpu", callbacks=[SharpnessAwareCallback()], logger=False,
            enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        )  # fmt: skip
        module = kind()
        trainer.fit(module, torch.utils.data.DataLoader(data, batch_size, shuffle=True))
        name, sharpness = kind.__name__, trainer.callback_metrics["sam/sharpness"]
        accuracy[name] = (module.net(x.float() / 16).argmax(1) == y).float().mean().item()
        print(f"{name}: {trainer.global_step} steps, sharpness of the last {sharpness:.3f}")
        print(f"{name}: train accuracy {accuracy[name]:.3f}")
    return accuracy


if __name__ == "__main__":
    main()
