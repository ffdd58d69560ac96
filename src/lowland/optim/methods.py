"""Every method by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from torch import nn
from torch.optim import Optimizer

from lowland.core.errors import InputError, unknown
from lowland.optim.adaptive import AdaSAM, LightSAM
from lowland.optim.agnostic import AgnosticSAM
from lowland.optim.amp import AMP
from lowland.optim.asam import ASAM
from lowland.optim.balanced import BalancedSAM
from lowland.optim.bayesian import BayesianSAM
from lowland.optim.esam import ESAM
from lowland.optim.federated import FedASAM, FedSAM, MoFedSAM
from lowland.optim.fsam import FSAM
from lowland.optim.gcsam import GCSAM
from lowland.optim.gradient_norm import GradientNorm
from lowland.optim.gsam import GSAM
from lowland.optim.lastlayer import LastLayerSAM, LogitsSAM
from lowland.optim.layerwise import AWP, LayerwiseSAM
from lowland.optim.looksam import LookSAM
from lowland.optim.monge import MongeSAM
from lowland.optim.msam import MSAM
from lowland.optim.mup import MuP2
from lowland.optim.nsam import NSAM
from lowland.optim.rwsam import RWSAM
from lowland.optim.sam import SAM
from lowland.optim.samon import SAMON
from lowland.optim.sharpness_aware import SharpnessAware
from lowland.optim.slsam import SLSAM
from lowland.optim.trajectory import MESA, SAF
from lowland.optim.universal import DetSAM, FrobSAM, TraceSAM
from lowland.optim.usam import USAM, UnifiedSAM
from lowland.optim.wsam import WSAM


@dataclass(frozen=True)
class Method:
    """A named member of the family.

    Attributes:
        name: lower case with hyphens.
        optimizer: its class; calling the method calls it.
        kind: what it varies: "perturbation", "combination", "plan", "loss term", "base optimizer".
        source: the paper.
        passes: forward and backward passes over the batch per step.
        memory: extra tensors of the size of the parameters that stay or live through a step.
        needs: what it asks of the caller beside the parameters.
    """

    name: str
    optimizer: type[SharpnessAware]
    kind: str
    source: str
    passes: str
    memory: str
    needs: str = ""

    def __call__(self, *args: Any, **kwargs: Any) -> SharpnessAware:
        return self.optimizer(*args, **kwargs)


# fmt: off
_ALL = (
    Method("sam", SAM, "perturbation", "2010.01412", "2", "1 copy"),
    Method("usam", USAM, "perturbation", "2206.06232", "2", "1 copy"),
    Method("unified-sam", UnifiedSAM, "perturbation", "2503.02225", "2", "1 copy"),
    Method("asam", ASAM, "perturbation", "2102.11600", "2", "1 copy", "model= to tell biases"),
    Method("layerwise-sam", LayerwiseSAM, "perturbation", "2203.02714", "2", "1 copy"),
    Method("last-layer-sam", LastLayerSAM, "perturbation", "2405.20439",
           "1 with loss_fn=, else 2", "copy of the output layer", "model="),
    Method("sam-on", SAMON, "perturbation", "2306.04226", "2", "copy of norm layers", "model="),
    Method("monge-sam", MongeSAM, "perturbation", "2502.08448", "2", "1 copy"),
    Method("mup2", MuP2, "perturbation", "2411.00075", "2", "1 copy", "model=, base_model="),
    Method("m-sam", MSAM, "plan", "2302.09693", "2", "1 copy, accumulator", "loss_fn=, batch="),
    Method("n-sam", NSAM, "plan", "2206.06232", "1 + n/b", "1 copy", "loss_fn=, batch="),
    Method("rw-sam", RWSAM, "plan", "2509.18001", "2 + a forward",
           "1 copy, z", "losses per example"),
    Method("agnostic-sam", AgnosticSAM, "plan", "2406.07107", "2 or 3",
           "1 copy, running mean, gradient"),
    Method("balanced-sam", BalancedSAM, "loss term", "ICCV 2025", "2",
           "1 copy", "weights=, losses per example"),
    Method("f-sam", FSAM, "perturbation", "2403.12350", "2", "1 copy, running mean, gradient"),
    Method("gcsam", GCSAM, "perturbation", "2501.11584", "2", "1 copy"),
    Method("gsam", GSAM, "combination", "2203.08065", "2", "1 copy, gradient"),
    Method("wsam", WSAM, "plan", "2305.15817", "2", "1 copy, gradient, difference"),
    Method("looksam", LookSAM, "plan", "2203.02714", "1 + 1/k", "1 copy, g_v, gradient"),
    Method("gradient-norm", GradientNorm, "loss term", "2305.16292", "2 to 3",
           "graph of the gradient", "loss_fn=, batch="),
    Method("amp", AMP, "plan", "2010.04925", "1 + K", "1 copy, ε", "step(closure) or loss_fn="),
    Method("awp", AWP, "perturbation", "2004.05884", "2", "1 copy"),
    Method("esam", ESAM, "plan", "2110.03141", "1 + γ + a forward", "1 copy", "losses per example"),
    Method("saf", SAF, "loss term", "2205.14083", "1", "examples · classes · (Ẽ + 1)",
           "losses and logits, examples=, steps_per_epoch=, indices in the batch"),
    Method("mesa", MESA, "loss term", "2205.14083", "1 + a forward", "average, 2 to 3 copies",
           "losses and logits"),
    Method("sl-sam", SLSAM, "plan", "2602.09395", "2 forwards, 2 partial backwards",
           "copy of active tensors", "step(closure) or loss_fn="),
    Method("logits-sam", LogitsSAM, "perturbation", "2603.18258", "1",
           "copies of the output layer", "model=, loss_fn=, batch="),
    Method("bayesian-sam", BayesianSAM, "plan", "2210.01620", "2",
           "1 copy, s, m, noise", "examples=, step(closure) or loss_fn="),
    Method("adasam", AdaSAM, "base optimizer", "2303.00565", "2", "1 copy, m, v, v̂", "no base"),
    Method("lightsam", LightSAM, "base optimizer", "2505.24399", "2",
           "1 copy, 2 to 4 accumulators", "no base"),
    Method("trace-sam", TraceSAM, "plan", "2406.03682", "1 + n",
           "1 copy, n gradients", "step(closure) or loss_fn="),
    Method("det-sam", DetSAM, "plan", "2406.03682", "1 + n",
           "1 copy, n gradients", "step(closure) or loss_fn="),
    Method("frob-sam", FrobSAM, "plan", "2406.03682", "1 + n",
           "1 copy, n gradients", "step(closure) or loss_fn="),
    Method("fedsam", FedSAM, "plan", "2206.02618", "2·K per client",
           "2 copies, way, mean", "loss_fn=, batches= of clients"),
    Method("fedasam", FedASAM, "plan", "2203.11834", "2·K per client",
           "2 copies, way, mean", "model= to tell biases, loss_fn=, batches= of clients"),
    Method("mofedsam", MoFedSAM, "plan", "2206.02618", "2·K per client",
           "2 copies, way, mean, Δ", "loss_fn=, batches= of clients"),
)
# fmt: on

METHODS: Mapping[str, Method] = MappingProxyType({method.name: method for method in _ALL})
"""name → `Method`, in the order of the tables."""


def create(
    name: str, model: nn.Module, base: type[Optimizer] | Optimizer | None = None, **options: Any
) -> SharpnessAware:
    """A method by name over all trainable parameters of a model.

    Args:
        name: one of `METHODS`.
        model: the network.
        base: a ``torch.optim`` class or an instance over the model's parameters; None for methods
            of kind "base optimizer", which bring their own.
        **options: the method's arguments, `SharpnessAware`'s, and the base optimizer's.

    Raises:
        InputError: the name is unknown (the nearest is given), or an argument cannot be used.

    >>> import torch
    >>> create("sam", nn.Linear(2, 1), torch.optim.SGD, lr=0.1, rho=0.05).param_groups[0]["rho"]
    0.05
    """
    if name not in METHODS:
        raise unknown("method", name, METHODS)
    params = [p for p in model.parameters() if p.requires_grad]
    method = METHODS[name]
    if base is None and method.kind != "base optimizer":
        raise InputError(f"{name} needs a base optimizer: give a torch.optim class")
    return method(params, base, model=model, **options)
