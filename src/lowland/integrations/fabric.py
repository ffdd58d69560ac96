"""Fabric: float16 with sharpness-aware optimizers.

In float32 and bfloat16 every way in works on what ``fabric.setup`` returns, with nothing from here.
"""

from __future__ import annotations

from typing import Any

from lowland.integrations.packages import of_loaded
from lowland.integrations.wrapped import find

_MixedPrecision: Any = of_loaded(
    ("lightning.fabric", "lightning_fabric"), "plugins.precision"
).MixedPrecision


class SharpnessAwareMixedPrecision(_MixedPrecision):  # type: ignore[misc]
    """Mixed precision with closures and clipping for sharpness-aware optimizers::

        precision = SharpnessAwareMixedPrecision("16-mixed", "cuda")
        fabric = Fabric(plugins=precision)
        model, opt = fabric.setup(model, opt)
        opt.step(closure)                                  # closure: ... fabric.backward(loss)

        fabric.backward(loss)                              # or
        with opt.perturbed(scaler=precision.scaler):
            fabric.backward(loss_fn(model(x), y))
        fabric.clip_gradients(model, opt, max_norm=1.0)
        opt.step()

    Other optimizers are treated as Fabric does.

    Args:
        precision: "16-mixed" or "bf16-mixed".
        device: where autocast acts.
        scaler: a ``torch.amp.GradScaler``; default one with torch's settings, for "16-mixed".
    """

    def optimizer_step(self, optimizer: Any, **kwargs: Any) -> Any:
        """A step through a closure gets the scaler, one without goes through ``scaler.step``."""
        if self.scaler is None or not kwargs or find(optimizer) is None:
            return super().optimizer_step(optimizer, **kwargs)
        result = optimizer.step(**kwargs, scaler=self.scaler)
        self.scaler.update()
        return result

    def unscale_gradients(self, optimizer: Any) -> None:
        """What ``fabric.clip_gradients`` calls first: after the perturbed pass it is allowed."""
        if self.scaler is None or find(optimizer) is None:
            super().unscale_gradients(optimizer)
        else:
            self.scaler.unscale_(optimizer)
