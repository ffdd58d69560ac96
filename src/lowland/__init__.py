"""lowland: sharpness-aware training in PyTorch.

The one-line swap::

    from lowland import SAM
    opt = SAM(model.parameters(), torch.optim.SGD, lr=0.1, rho=0.05, model=model)

Importing the package loads torch and numpy, and nothing heavier.
"""

from lowland.core.errors import InputError
from lowland.optim import ASAM, FSAM, MSAM, SAM, SAMON, LookSAM, SharpnessAware

__version__ = "0.1.0"

__all__ = [
    "ASAM",
    "FSAM",
    "MSAM",
    "SAM",
    "SAMON",
    "InputError",
    "LookSAM",
    "SharpnessAware",
    "__version__",
]
