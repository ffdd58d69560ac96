"""The claims of the two-layer study, with their thresholds, fixed before anything runs."""

from __future__ import annotations

from functools import partial

from lowland.studies.study import Claim
from lowland.studies.two_layer import findings
from lowland.studies.two_layer.columns import ACTIVE, GRADIENT_NORM, NORM, RANK, SAM, TEST
from lowland.studies.two_layer.pruning_claims import (
    by_pruning,
    first_order_dominates,
    of_pruned_units,
)
from lowland.studies.verdict import AtLeast, Within

SHARE = 0.05
DECADE = 0.05
ORDER = 0.2

_SHARE_REASON = "A twentieth: one of the about 20 components, or 4 of the about 70 active units."
_ORDER_REASON = "τ = 0.2: three pairs of ρ in five are in the order that is claimed."
_NORM_REASON = "0.05 in log10: a change of the norm by an eighth."
_NAMES = {"relu": "ReLU", "tanh": "tanh", "abs": "absolute-value"}


def claims() -> tuple[Claim, ...]:
    """Every claim, in the order of the report."""
    others = [name for name in SAM if name != "relu"]
    return (
        *_relu(),
        *_against_weight_decay(),
        *(claim for name in others for claim in _activation(name)),
        *_gradient_norm(),
        *_proposition(),
        *_teachers(),
    )


def _fall(name: str, sentence: str, group: str, column: str, what: str, *source: str) -> Claim:
    return Claim(
        name=name,
        sentence=sentence,
        source=source[0],
        published=source[1],
        effect=f"share by which the {what} is lower at the largest ρ than at 0, at the end",
        unit="percent",
        rule=AtLeast(SHARE),
        reason=_SHARE_REASON,
        find=partial(findings.fall, group=group, column=column),
    )


def _norm(name: str, sentence: str, group: str, *source: str) -> Claim:
    return Claim(
        name=name,
        sentence=sentence,
        source=source[0],
        published=source[1],
        effect="log10 of the norm of all weights at the largest ρ over that at 0, at the end",
        unit="",
        rule=AtLeast(DECADE),
        reason=_NORM_REASON,
        find=partial(findings.rise, group=group, column=NORM),
    )


def _loss(name: str, sentence: str, group: str, *source: str) -> Claim:
    return Claim(
        name=name,
        sentence=sentence,
        source=source[0],
        published=source[1],
        effect="Kendall's τ of the falling order of the test losses with ρ, at the end",
        unit="",
        rule=AtLeast(ORDER),
        reason=_ORDER_REASON,
        find=partial(findings.order, group=group, column=TEST, rising=False),
    )


def _relu() -> tuple[Claim, ...]:
    group = SAM["relu"]
    return (
        _fall(
            "relu-rank",
            "SAM gives two-layer ReLU networks features of substantially smaller rank.",
            group,
            RANK,
            "rank (99.99%)",
            "Fig. 5, §4.1",
            "4 instead of 19 at ρ = 0.6 (−79%), one seed",
        ),
        _fall(
            "relu-active",
            "The number of active ReLUs falls with ρ: whole units are set to zero.",
            group,
            ACTIVE,
            "number of active units",
            "Fig. 5, §4.1",
            "10 of 100 units active at ρ = 0.6, one seed",
        ),
        by_pruning("relu", _NAMES["relu"]),
        *of_pruned_units(),
        _loss(
            "relu-test-loss",
            "Networks trained with a larger ρ generalize better.",
            group,
            "Fig. 5, §4.1",
            "shape: test loss falls with ρ, one seed",
        ),
        _norm(
            "relu-norm",
            "The weight norm grows with ρ: the opposite of weight decay.",
            group,
            "Fig. 5 (right), §4.1",
            "shape: grows with ρ, one seed",
        ),
        Claim(
            name="relu-convergence",
            sentence="SAM, at a large ρ above all, hinders convergence while it acts.",
            source="§4.1, App. A",
            published="the reason for turning it off half-way, no number",
            effect="Kendall's τ of the order of ρ and the train loss where SAM ends",
            unit="",
            rule=AtLeast(ORDER),
            reason=_ORDER_REASON,
            find=partial(findings.half_way, group=group),
        ),
        Claim(
            name="relu-early",
            sentence="The effect is stronger at the beginning of training.",
            source="§4.2",
            published="none: a consequence of the proposition",
            effect="share of the units pruned while SAM acts that is gone after a tenth of its "
            "steps, largest ρ",
            unit="percent",
            rule=AtLeast(0.2),
            reason="A fifth in a tenth of the steps: twice an even pace.",
            find=findings.stronger_at_first,
        ),
        Claim(
            name="relu-follows-loss",
            sentence="Over training the lowering component shrinks as the root of the loss does.",
            source="§4.2, Prop. 1",
            published="proportional to √ℓ",
            effect="slope of the log of the component on log √(train loss) while SAM acts, "
            "largest ρ, minus 1",
            unit="",
            rule=Within(0.25),
            reason="Over three decades of the loss a quarter is less than one decade of the "
            "component.",
            find=findings.shifted(findings.follows_the_loss, -1.0),
        ),
    )


def _against_weight_decay() -> tuple[Claim, ...]:
    published = "none: argued from the weight norm"
    return (
        Claim(
            name="decay-rank",
            sentence="Weight decay cannot give the same fall of the rank.",
            source="§4.1",
            published=published,
            effect="share by which the rank at the largest ρ is below the lowest rank of any "
            "weight decay that ends with no larger train loss",
            unit="percent",
            rule=AtLeast(SHARE),
            reason=_SHARE_REASON,
            find=partial(findings.against_weight_decay, column=RANK),
        ),
        Claim(
            name="decay-active",
            sentence="Weight decay cannot prune as many units.",
            source="§4.1",
            published=published,
            effect="the same share of the number of active units",
            unit="percent",
            rule=AtLeast(SHARE),
            reason=_SHARE_REASON,
            find=partial(findings.against_weight_decay, column=ACTIVE),
        ),
        Claim(
            name="decay-prunes-nothing",
            sentence="Weight decay prunes next to no units.",
            source="§4.1, where the effect of SAM is the opposite of weight decay's",
            published="none",
            effect="share by which the strongest weight decay lowers the number of active units",
            unit="percent",
            rule=Within(0.15),
            reason="Ten of about 70 units, far from the share that SAM prunes.",
            find=findings.weight_decay_prunes,
        ),
    )


def _activation(name: str) -> tuple[Claim, ...]:
    group, said = SAM[name], _NAMES[name]
    shape = ("Fig. 12, App. D", "shape, one seed")
    return (
        _fall(
            f"{name}-rank",
            f"The rank falls with ρ in {said} networks too.",
            group,
            RANK,
            "rank (99.99%)",
            *shape,
        ),
        _fall(
            f"{name}-active",
            f"The number of active {said} units falls with ρ.",
            group,
            ACTIVE,
            "number of active units",
            *shape,
        ),
        by_pruning(name, said),
        _norm(f"{name}-norm", f"The weight norm of {said} networks grows with ρ.", group, *shape),
        _loss(
            f"{name}-test-loss",
            f"{said} networks generalize better with ρ.",
            group,
            "§4.1, of ReLU; Fig. 12, App. D",
            "none in words: App. D names rank, active units and norm",
        ),
    )


def _gradient_norm() -> tuple[Claim, ...]:
    shape = ("Fig. 13, App. D", "shape, one seed")
    return (
        _fall(
            "gradient-norm-rank",
            "The first-order part alone, the norm of the gradient, lowers the rank.",
            GRADIENT_NORM,
            RANK,
            "rank (99.99%)",
            *shape,
        ),
        _fall(
            "gradient-norm-active",
            "It prunes ReLUs.",
            GRADIENT_NORM,
            ACTIVE,
            "number of active units",
            *shape,
        ),
        _norm("gradient-norm-norm", "The weight norm grows with it.", GRADIENT_NORM, *shape),
        _loss("gradient-norm-test-loss", "The test loss falls with it.", GRADIENT_NORM, *shape),
        first_order_dominates(),
    )


def _proposition() -> tuple[Claim, ...]:
    printed = "ηρ·√ℓ/‖∇f‖·σ(⟨w_j, x⟩)·‖x‖²"
    return (
        Claim(
            name="step-lowered",
            sentence="Every update of SAM has a component that lowers all pre-activations.",
            source="Prop. 1, §4.2",
            published="every update",
            effect="share of examples whose step has it at initialisation, minus 1",
            unit="percent",
            rule=Within(0.01),
            reason="Every one, up to examples at a kink.",
            find=findings.lowered,
        ),
        Claim(
            name="step-order",
            sentence="Data fitting and that component are the whole step up to O(ρ²).",
            source="Prop. 1, §4.2",
            published="O(ρ²)",
            effect="exponent of ρ in what the two terms leave, minus 2, at initialisation",
            unit="",
            rule=Within(0.1),
            reason="An exponent of 1 or 3 would be ten times as far away.",
            find=findings.remainder_order,
        ),
        Claim(
            name="step-constant-printed",
            sentence="The component's size is the printed one, with the root of the loss.",
            source="Prop. 1, §4.2",
            published=printed,
            effect="measured size over the printed one with ℓ = r²/2, as its proof needs, minus 1",
            unit="percent",
            rule=Within(0.01),
            reason="An identity: a hundredth leaves room for kinks alone.",
            find=findings.printed_constant,
        ),
        Claim(
            name="step-constant-residual",
            sentence="The component's size is the printed one with |r| in place of the root of the "
            "loss.",
            source="derivation of Prop. 1",
            published="none: |r| = √(2ℓ) for ℓ = r²/2",
            effect="measured size over ηρ·|r|/‖∇f‖·σ(⟨w_j, x⟩)·‖x‖², minus 1",
            unit="percent",
            rule=Within(0.01),
            reason="An identity: a hundredth leaves room for kinks alone.",
            find=findings.residual_constant,
        ),
    )


def _teachers() -> tuple[Claim, ...]:
    return (
        Claim(
            name="teacher-adaptive",
            sentence="The low rank is adaptive: with more teacher units the rank under SAM is "
            "higher.",
            source="§1, §6, §7",
            published="none",
            effect="Kendall's τ over teachers of 1 to 20 units between their units and the rank at "
            "ρ = 0.2",
            unit="",
            rule=AtLeast(ORDER),
            reason=_ORDER_REASON,
            find=findings.data_adaptive,
        ),
        Claim(
            name="teacher-gain",
            sentence="A low rank is of use where the target is low-rank: SAM gains more the fewer "
            "units the teacher has.",
            source="§7",
            published="none: named as a possibility",
            effect="Kendall's τ over teachers between their units and the log-ratio of the test "
            "losses, ρ = 0.2 over plain",
            unit="",
            rule=AtLeast(ORDER),
            reason=_ORDER_REASON,
            find=findings.helps_low_rank_targets,
        ),
    )
