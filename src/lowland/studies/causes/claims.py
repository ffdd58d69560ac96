"""The claims of the study of causes, with their thresholds, fixed before anything runs."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from lowland.studies.causes import columns, findings
from lowland.studies.causes.arms import (
    AUGMENT,
    DECAY,
    DEPTH,
    INIT,
    MLP,
    NOISE,
    RESNET,
    STEP,
)
from lowland.studies.causes.columns import Measured
from lowland.studies.causes.quoted import quoted
from lowland.studies.study import Claim, Finding
from lowland.studies.verdict import AtLeast, Within

SHARE = 0.05
"""Smallest relative change of a rank, or a share, that matters."""

HALF = 0.5
"""A scatter that halves once more is still collapsing."""

TAU = 0.2
"""Two orders that agree on six pairs in ten, or fewer, are as good as unrelated."""

_REASON = "A twentieth, as in the study low-rank: a smaller fall saves next to nothing."

_UNSAID = "not in the paper"

_NETWORKS = {RESNET: "the residual network", MLP: "the fully connected network"}


def claims(what: Measured) -> tuple[Claim, ...]:
    """Every claim, in the order of the report."""
    return (
        *_rank_claims(what),
        *_weight_claims(what),
        *_sam_claims(what),
        *_side_claims(what),
        *quoted(what),
    )


def _share(
    name: str, sentence: str, source: str, published: str, effect: str, find: Callable[..., Finding]
) -> Claim:
    return Claim(
        name=name,
        sentence=sentence,
        source=source,
        published=published,
        effect=effect,
        unit="percent",
        rule=AtLeast(SHARE),
        reason=_REASON,
        find=find,
    )


def _matched(what: Measured, network: str, words: str) -> str:
    return (
        f"share by which the rank at {what.blocks[network]} of {_NETWORKS[network]} is lower "
        f"{words} than in plain training, at the same train loss"
    )


def _rank_claims(what: Measured) -> tuple[Claim, ...]:
    none = "none in this paper: said of others' work"

    def cause(network: str, cause: str) -> Callable[..., Finding]:
        return partial(findings.cause_lowers_rank, what=what, network=network, cause=cause)

    return (
        _share(
            "plain-training",
            "Plain training lowers the rank of features already.",
            "§2.1, after Huh et al. 2021",
            none,
            f"share by which the rank at {what.blocks[RESNET]} of {_NETWORKS[RESNET]} falls from "
            "initialisation to the end of plain training",
            partial(findings.plain_lowers_rank, what=what, network=RESNET),
        ),
        _share(
            "weight-decay",
            "Weight decay lowers the rank of features.",
            "§4.1, after Galanti et al. 2022 and Timor et al. 2023",
            none,
            _matched(what, RESNET, "with the largest weight decay"),
            cause(RESNET, DECAY),
        ),
        _share(
            "small-initialisation",
            "A small initialisation lowers the rank of features.",
            f"{_UNSAID}, which in §2.1 says it of weight matrices (Galanti et al. 2022, Timor et "
            "al. 2023)",
            none,
            _matched(what, MLP, "with weights that start at half their size"),
            cause(MLP, INIT),
        ),
        _share(
            "large-steps",
            "A large step size lowers the rank of features.",
            f"{_UNSAID}, which in §2.1 says of large steps that they change the Jacobian and "
            "activations (Andriushchenko et al. 2023)",
            none,
            _matched(what, RESNET, "with five times the learning rate"),
            cause(RESNET, STEP),
        ),
        _share(
            "label-noise",
            "Label noise, which minimises sharpness too, lowers the rank as SAM does.",
            f"{_UNSAID}, which in §2.1 connects both by the trace of the Hessian (Damian et al. "
            "2021, Wen et al. 2023)",
            "none in this paper: of ranks nothing is said",
            _matched(what, RESNET, "with the most label noise"),
            cause(RESNET, NOISE),
        ),
        _share(
            "depth",
            "Deeper networks have features of lower rank.",
            f"{_UNSAID}, which in §2.1 names Huh et al. 2021",
            none,
            _matched(what, RESNET, "with three blocks to a superblock in place of one"),
            cause(RESNET, DEPTH),
        ),
    )


def _weight_claims(what: Measured) -> tuple[Claim, ...]:
    none = "none in this paper: said of others' work"
    weights = partial(findings.lowers, what=what, column=columns.WEIGHT_RANK)
    effect = (
        "share by which the mean over weight matrices of rank over full rank (99% of the energy) "
        "is lower {} than in plain training, at the end"
    )
    return (
        _share(
            "weight-rank-by-decay",
            "Weight decay lowers the rank of weight matrices.",
            "§2.1, after Galanti et al. 2022 and Timor et al. 2023",
            none,
            effect.format("with weight decay, fully connected network,"),
            partial(weights, network=MLP, cause=DECAY, start=columns.START_WEIGHT_RANK),
        ),
        _share(
            "weight-rank-by-initialisation",
            "A small initialisation lowers the rank of weight matrices.",
            "§2.1, after Timor et al. 2023",
            none,
            effect.format("with weights that start at half their size, fully connected network,"),
            partial(weights, network=MLP, cause=INIT, start=columns.START_WEIGHT_RANK),
        ),
        _share(
            "sparse-by-large-steps",
            "Large steps make activations sparse.",
            "§2.1, after Andriushchenko et al. 2023",
            none,
            "share by which active pairs of image and unit are fewer after the last ReLU of the "
            "residual network with five times the learning rate than in plain training",
            partial(
                findings.lowers,
                what=what,
                network=RESNET,
                cause=STEP,
                column=columns.POSITIVE,
                start=columns.START_POSITIVE,
            ),
        ),
        _share(
            "sparse-by-training",
            "Standard training makes activations sparse.",
            "§2.1, after Li et al. 2023, who say it of transformers",
            none,
            "share by which active pairs of image and unit in the judged block of the fully "
            "connected network become fewer from initialisation to the end of plain training",
            partial(findings.plain_makes_sparse, what=what),
        ),
    )


def _sam_claims(what: Measured) -> tuple[Claim, ...]:
    return (
        _share(
            "sam",
            "SAM lowers the rank of features at the same train loss.",
            "§1, §3.1",
            "shape: falls with ρ, at equal steps",
            _matched(what, RESNET, "at the largest ρ"),
            partial(findings.sam_lowers_rank, what=what, network=RESNET),
        ),
        _share(
            "sam-fully-connected",
            "SAM lowers the rank of features of fully connected networks too.",
            "abstract",
            "19 → 4 in a two-layer network; the paper has no deeper one",
            _matched(what, MLP, "at the largest ρ"),
            partial(findings.sam_lowers_rank, what=what, network=MLP),
        ),
        Claim(
            name="norm-rises",
            sentence="SAM makes weights larger, where weight decay makes them smaller.",
            source="§4.1, said of two-layer networks",
            published="shape: weight norms only increase with ρ",
            effect="weight norm at the largest ρ over that of plain training, minus 1",
            unit="percent",
            rule=AtLeast(0.0),
            reason="Any rise is the opposite of what weight decay does.",
            find=partial(findings.norm_rises_with_rho, what=what),
        ),
        _share(
            "no-substitute",
            "Weight decay cannot achieve the regularisation that SAM does.",
            "§4.1",
            "none",
            "share by which SAM lowers the rank at the end, minus the share by which weight decay "
            "does, each at the level that validation data of the other seeds choose",
            partial(findings.decay_is_no_substitute, what=what),
        ),
        _share(
            "augmentation-times-rho",
            "Augmentation is what reveals the fall of the rank with ρ.",
            "§3.1",
            "none: crucial",
            "share by which the rank is lower at the largest ρ than at ρ = 0 with augmentation, "
            "minus that share without",
            partial(findings.interaction, what=what, cause=AUGMENT),
        ),
        Claim(
            name="decay-times-rho",
            sentence="Weight decay alone does not make the rank fall more with ρ.",
            source="§3.1",
            published="none: insufficient",
            effect=(
                "share by which the rank is lower at the largest ρ than at ρ = 0 with weight "
                "decay, minus that share without"
            ),
            unit="percent",
            rule=Within(SHARE),
            reason="The same twentieth within which a change of the rank does not matter.",
            find=partial(findings.interaction, what=what, cause=DECAY),
        ),
    )


def _side_claims(what: Measured) -> tuple[Claim, ...]:
    return (
        Claim(
            name="collapse",
            sentence="Neural collapse goes on through training.",
            source="§3.1, after Papyan et al. 2020",
            published="the reason why the last superblock is left out",
            effect=(
                f"share by which NC1 at {what.last[RESNET]} of the residual network falls from "
                "half-way to the end of plain training"
            ),
            unit="percent",
            rule=AtLeast(HALF),
            reason="Half: a scatter that halves once more is still collapsing.",
            find=partial(findings.collapse_over_training, what=what),
        ),
        Claim(
            name="side-effect",
            sentence="The rank is a side effect: it is unrelated to the test error.",
            source="§7",
            published="none: low rank alone does not enhance generalisation on natural data",
            effect=(
                f"Kendall's τ between the rank at {what.blocks[RESNET]} and the test error over "
                "all causes, levels and ρ of the residual network"
            ),
            unit="",
            rule=Within(TAU),
            reason="τ = 0.2: two orders that agree on six pairs in ten.",
            find=partial(findings.rank_and_error, what=what),
        ),
        _share(
            "data-adaptive",
            "The low rank of SAM adapts to the data.",
            "§6, §7",
            "none: adjusts to the data structure rather than to a fixed dimension",
            f"share by which the rank at {what.blocks[RESNET]} at the largest ρ is lower on few "
            "classes than on all, with as many images",
            partial(findings.adapts_to_data, what=what),
        ),
    )
