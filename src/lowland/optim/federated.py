"""FedSAM, FedASAM, MoFedSAM: sharpness-aware steps at the clients of federated training."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn
from torch.optim import Optimizer

from lowland.optim.asam import biases
from lowland.optim.metrics import Elementwise
from lowland.optim.perturbation import Perturbation
from lowland.optim.rounds import Round
from lowland.optim.sharpness_aware import SharpnessAware


class FedSAM(SharpnessAware):
    """Qu et al. 2022 (arXiv 2206.02618), Caldarola et al. 2022 (2203.11834): SAM at the clients.

        w_i ← w;  K times on local data:  ε = ρ·g/‖g‖ with g = ∇L_i(w_i),  w_i ← w_i − η_l·g̃,
        g̃ = ∇L_i(w_i + ε);   the server's base optimizer steps along u = −mean_i (w_i − w)

    One round of communication is one step. The base optimizer is the server's and `lr` is η_g:
    SGD with lr=1 is FedAvg's server, any other is FedOpt's. With ρ = 0 this is FedAvg, not a plain
    step. One client, one local step: SAM with the step size η_g·η_l.

    ``opt.step(loss_fn=..., batches=[client_1, ..., client_C])``: each item is all local data of one
    sampled client, tensors with the examples along the first dimension. ``batch=`` is one client.

    An epoch of n_i examples in mini-batches of B has ⌈n_i/B⌉ local steps, the last of them on what
    is left; the order is drawn anew for every epoch, as a function of `seed`, the round and the
    place of the client in `batches`. `local_epochs` is for every client over its own data, so K
    differs between clients of different sizes; `local_steps` is K for all, over as many epochs as
    it takes.

    Args:
        rho: ρ = ‖ε‖; 0.1 in the simulator FL-Simulator, as local_lr=0.1, local_epochs=5,
            local_batch_size=50, clip=10 and local_weight_decay=1e-3; there η_l decays by 0.998 a
            round.
        local_lr: η_l, above 0. Set ``group["local_lr"]`` between rounds for a schedule; groups may
            differ.
        local_steps: K, or
        local_epochs: passes of a client over its own data; 5 if neither is given.
        local_batch_size: B; None is all data of the client in every local step.
        clip: the largest norm of g̃; above, it is scaled down to it. Joint over all parameters.
        local_weight_decay: λ: λ·w_i is added to the local direction; groups may differ.
        beta: β of `MoFedSAM`; None is no momentum.
        client_weights: "equal", as in the formula, or "examples" for weights n_i/Σn.
        seed: of the order of local examples.
        perturbation: what ε is: any `Perturbation`, around w_i.
        **options: everything that `SharpnessAware` takes, and the base optimizer's arguments.

    Running statistics move in the first local pass of each client, which is at w, and in no other:
    they are of the server's network. With ``bn_second="update"`` they move in all passes, client
    after client. Group normalization has no such question, and is what the literature advises.

    ``opt.last`` has the mean over the clients' first local steps. State of a transform (F-SAM's
    running mean) is the server's, and stays as it is during a round. Under DDP every client's data
    is spread over the devices.

    Cost: 2·K passes over local mini-batches for every client (K with ρ = 0). Memory, in copies of
    the parameters: w, w_i, w − w_i, and their mean over clients; with K = 1 the second is not
    needed. Confidence: high for the rule, the code of Caldarola et al. agrees; defaults are from a
    third party's simulator.

    Raises:
        InputError: a hyperparameter is out of range, or both local_steps and local_epochs are set.
    """

    def __init__(
        self,
        params: Iterable[Any],
        base: type[Optimizer] | Optimizer | None = None,
        *,
        rho: float = 0.1,
        local_lr: float = 0.1,
        local_steps: int | None = None,
        local_epochs: int | None = None,
        local_batch_size: int | None = None,
        clip: float | None = None,
        local_weight_decay: float = 0.0,
        beta: float | None = None,
        client_weights: str = "equal",
        seed: int = 0,
        perturbation: Perturbation | str = "global",
        **options: Any,
    ) -> None:
        plan = Round(
            local_lr=local_lr,
            local_weight_decay=local_weight_decay,
            local_steps=local_steps,
            local_epochs=5 if local_steps is None and local_epochs is None else local_epochs,
            local_batch_size=local_batch_size,
            clip=clip,
            beta=beta,
            client_weights=client_weights,
            seed=seed,
        )
        super().__init__(params, base, rho=rho, perturbation=perturbation, plan=plan, **options)


class FedASAM(FedSAM):
    """Caldarola et al. 2022 (arXiv 2203.11834): FedSAM with ASAM's ball at the clients.

        ε = ρ·T²g / ‖T·g‖,   T = |w_i| + η on tensors named "...weight...", T = 1 on the rest

    Args:
        rho: ρ.
        eta: η.
        scale_bias: scale all tensors by T; otherwise names tell weights from biases, as in `ASAM`.
        model: the network.
        **options: everything that `FedSAM` takes but `perturbation`; with beta=, MoFedSAM's
            momentum too.

    Cost, and one call for one round, as for `FedSAM`. Confidence: high for the rule; the defaults
    of ρ and η are ASAM's.
    """

    def __init__(
        self,
        params: Iterable[Any],
        base: type[Optimizer] | Optimizer | None = None,
        *,
        rho: float = 0.5,
        eta: float = 0.01,
        scale_bias: bool = False,
        model: nn.Module | None = None,
        **options: Any,
    ) -> None:
        params = list(params)
        metric = Elementwise(eta=eta, unscaled=() if scale_bias else biases(params, model))
        rule = Perturbation(metric=metric)
        super().__init__(params, base, rho=rho, perturbation=rule, model=model, **options)


class MoFedSAM(FedSAM):
    """Qu et al. 2022 (arXiv 2206.02618): FedSAM whose clients remember where all of them went.

        w_i ← w_i − η_l·(β·g̃ + (1−β)·Δ^{r−1}),   Δ^r = −mean_i (w_i − w)/(K·η_l),   Δ⁰ = 0

    β = 1 is FedSAM. ρ = 0 is FedCM. Where clients take different numbers of local steps, K is their
    mean, weighted like the clients: Δ is then the mean direction over all local steps. Clipping
    acts on g̃ alone, and local weight decay comes on top, so it is part of Δ.

    Args:
        beta: β in [0, 1]; 0.1 in FL-Simulator.
        **options: everything that `FedSAM` takes.

    A local step moves the parameters that have a gradient in it. Δ is in ``state[p]["sam_delta"]``,
    in float32 at least. In the first round the local steps are β times as long. Cost: that of
    `FedSAM`; a copy more, Δ. Confidence: good, a third party's simulator agrees.
    """

    def __init__(
        self,
        params: Iterable[Any],
        base: type[Optimizer] | Optimizer | None = None,
        *,
        beta: float = 0.1,
        **options: Any,
    ) -> None:
        super().__init__(params, base, beta=beta, **options)
