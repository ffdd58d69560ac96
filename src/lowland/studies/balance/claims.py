"""The claims of the study, with their thresholds, fixed before anything runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

from lowland.studies.balance import findings, flatness
from lowland.studies.balance.columns import REDUNDANT, Setting, Setup
from lowland.studies.study import Claim, Finding
from lowland.studies.verdict import AtLeast, Within

UNDER_LEARNED = 0.02
GAIN = 0.005
WORST = 0.01
SHARE = 0.01
ORDER = 0.2
EXPLAINS = 1 / 3

NOT_HERE = "not published here: only the abstract is at hand"
SOURCE = "arXiv 2405.20439"

_GAIN_REASON = "Half a point: about three of the digits' 568 test images."
_PLACES = {
    "cifar-mnist": ("cifar-mnist-dominoes", "cifar-mnist-dominoes:mnist=PATH,cifar=PATH"),
    "waterbirds": ("waterbirds", "waterbirds:FOLDER"),
    "celeba": ("celeba", "celeba:FOLDER,label=Blond_Hair,spurious=Male"),
}
"""Data sets that the abstract names: kind, and how they are given."""

_TITLES = {
    "cifar-mnist": "CIFAR-MNIST dominoes",
    "waterbirds": "Waterbirds",
    "celeba": "CelebA",
}


def claims(setup: Setup) -> tuple[Claim, ...]:
    """Every claim, in the order of the report."""
    places = [(net, setting) for net in setup.networks for setting in setup.settings]
    return (
        *(_falls(setup, *place) for place in places),
        *(_improves(setup, *place) for place in places),
        *(_worst(setup, *place) for place in places if place[1].spurious),
        *(_suppresses(setup, *place) for place in places),
        *(claim for network in setup.networks for claim in _of_network(setup, network)),
        *_named(setup),
    )


def _name(network: str, what: str, setting: Setting) -> str:
    return f"{network}-{what}-{setting.name.replace(' ', '-')}"


def _where(setup: Setup, network: str, setting: Setting) -> str:
    """In which network and on which data."""
    if setting.name == REDUNDANT:
        data = "both features tell the label"
    elif setting.name.startswith("spurious"):
        data = f"the simple feature agrees with {setting.name.partition(' ')[2]} of the labels"
    elif setting.data.startswith("domains:"):
        data = "the simple feature is the domain"
    else:
        data = f"the data are {setting.data.partition(':')[0]}"
    return f"{setup.networks[network]}, {data}"


def _falls(setup: Setup, network: str, setting: Setting) -> Claim:
    return Claim(
        name=_name(network, "falls", setting),
        sentence="Plain training falls for the simple feature and would not otherwise learn all "
        f"that there are ({_where(setup, network, setting)}).",
        source=f"{SOURCE}, abstract",
        published=NOT_HERE,
        effect="hard-feature probe error of plain training on both features minus that of plain "
        "training on the hard one alone, at the end",
        unit="points",
        rule=AtLeast(UNDER_LEARNED),
        reason="Two points: half as much again as the error with the hard feature alone.",
        find=partial(findings.falls, setup=setup, network=network, setting=setting),
    )


def _improves(setup: Setup, network: str, setting: Setting) -> Claim:
    return Claim(
        name=_name(network, "improves", setting),
        sentence=f"SAM improves the hard feature ({_where(setup, network, setting)}).",
        source=f"{SOURCE}, abstract",
        published=NOT_HERE,
        effect="hard-feature probe error of plain training minus that of SAM at the ρ chosen on "
        "validation data, at the end",
        unit="points",
        rule=AtLeast(GAIN),
        reason=_GAIN_REASON,
        find=partial(findings.improves, setup=setup, network=network, setting=setting),
    )


def _worst(setup: Setup, network: str, setting: Setting) -> Claim:
    return Claim(
        name=_name(network, "worst-group", setting),
        sentence="SAM lowers the error of the worst group, where the simple feature misleads "
        f"({_where(setup, network, setting)}).",
        source=f"{SOURCE}, abstract: beneficial out of distribution, in data with spurious "
        "features",
        published=NOT_HERE,
        effect="worst-group test error of plain training minus that of SAM at the ρ chosen on "
        "validation data, at the end",
        unit="points",
        rule=AtLeast(WORST),
        reason="One point: between one and two of the 142 test images of a group.",
        find=partial(findings.worst_group, setup=setup, network=network, setting=setting),
    )


def _suppresses(setup: Setup, network: str, setting: Setting) -> Claim:
    return Claim(
        name=_name(network, "suppresses", setting),
        sentence="It does so by suppressing well-learned features, which leaves more of the "
        f"gradient to the others ({_where(setup, network, setting)}).",
        source=f"{SOURCE}, abstract",
        published=NOT_HERE,
        effect="share of the hard feature in the gradient that SAM descends minus that in plain "
        "training, mean over five train losses that both reach",
        unit="points",
        rule=AtLeast(SHARE),
        reason="One point: a twentieth of the share that the hard feature has at the beginning.",
        find=partial(findings.suppresses, setup=setup, network=network, setting=setting),
    )


def _of_network(setup: Setup, network: str) -> Iterator[Claim]:
    def claim(
        name: str,
        sentence: str,
        effect: str,
        unit: str,
        rule: AtLeast | Within,
        reason: str,
        find: Callable[..., Finding],
    ) -> Claim:
        return Claim(
            name=f"{network}-{name}",
            sentence=f"{sentence} ({setup.networks[network]}).",
            source=f"{SOURCE}, abstract",
            published=NOT_HERE,
            effect=effect,
            unit=unit,
            rule=rule,
            reason=reason,
            find=partial(find, setup=setup, network=network),
        )

    yield claim(
        "adaptive",
        "The suppression is adaptive: the better a feature is learned, the more it is held back",
        "Kendall's τ over training between the main effect of the simple feature on the logits "
        "and what going from w to w + ε adds to the hard feature's share of the gradient, largest "
        "ρ, mean over settings",
        "",
        AtLeast(ORDER),
        "τ = 0.2: three pairs of evaluations in five are in the order that is claimed.",
        findings.adaptive,
    )
    yield claim(
        "balances",
        "SAM implicitly balances the quality of diverse features",
        "by how much the gap between the probe errors of hard and simple feature is smaller with "
        "SAM, at the ρ chosen on validation data, mean over settings",
        "points",
        AtLeast(GAIN),
        _GAIN_REASON,
        findings.balances,
    )
    yield claim(
        "not-flatness",
        "The effect is orthogonal to flatness: flatter minima do not go with better hard features",
        "Kendall's τ over seeds between the fall of λ_max and the gain in the hard feature at "
        "given ρ, mean over settings and ρ (jackknife over seeds)",
        "",
        Within(EXPLAINS),
        "τ = 1/3: flatness that orders fewer than two pairs of networks in three explains little.",
        flatness.predicts,
    )


def _named(setup: Setup) -> Iterator[Claim]:
    for name, (kind, place) in _PLACES.items():
        if setup.kind == kind and len(setup.settings) > 1:
            continue  # each setting has its own claim
        yield Claim(
            name=f"on-{name}",
            sentence=f"SAM improves the hard feature on {_TITLES[name]}.",
            source=f"{SOURCE}, abstract",
            published=NOT_HERE,
            effect="hard-feature probe error of plain training minus that of SAM at the ρ chosen "
            "on validation data, at the end",
            unit="points",
            rule=AtLeast(GAIN),
            reason="Half a point, as on dominoes of digits.",
            find=partial(findings.published_data, setup=setup, kind=kind, place=place),
        )
