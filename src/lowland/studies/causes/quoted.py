"""Claims on what the paper says of others' work, ranks aside; some have a row and no data."""

from __future__ import annotations

from functools import partial

from lowland.studies.causes.columns import Measured
from lowland.studies.causes.findings import sharpness_and_error
from lowland.studies.runs import NotMeasuredError, Runs
from lowland.studies.study import Claim, Finding
from lowland.studies.verdict import AtLeast

TAU = 0.2
_NONE = "none in this paper: said of others' work"


def quoted(what: Measured) -> tuple[Claim, ...]:
    """What the paper says of others' work, ranks aside."""
    return (
        Claim(
            name="sharpness-and-error",
            sentence="The sharpness of a minimum correlates with the generalization error.",
            source="§1, after Keskar et al. 2017 and Jiang et al. 2020",
            published=_NONE,
            effect=(
                "Kendall's τ between the one-step sharpness and the test error minus the train "
                "error, over all causes, levels and ρ of the residual network"
            ),
            unit="",
            rule=AtLeast(TAU),
            reason="τ = 0.2: six pairs of networks in ten are in the order that is claimed.",
            find=partial(sharpness_and_error, what=what),
        ),
        _elsewhere(
            "small-m",
            "Worst-case perturbations and a small m are essential for the gain of SAM, which "
            "depends continuously on m.",
            "§2.2, after Foret et al. 2021",
            "what is found of m is in the study methods, claim m-sam-grows",
        ),
        _elsewhere(
            "robust-generalization",
            "Perturbing weights improves robust generalization in adversarial training.",
            "§2.1, after Wu et al. 2020",
            "adversarial training is in the study methods",
        ),
        _elsewhere(
            "anisotropy",
            "Language models trained with standard methods have extremely anisotropic features.",
            "§2.1, after Ethayarajh 2019 and Cai et al. 2021",
            "no language model is trained here",
        ),
        _elsewhere(
            "training-stability",
            "A low rank together with PCA can improve the stability of training.",
            "§7, More efficient feature quantization, after Ramesh et al. 2022",
            "no network that predicts embeddings is trained here",
        ),
    )


def _elsewhere(name: str, sentence: str, source: str, why: str) -> Claim:
    """A sentence that the runs of this paper's studies say nothing about: a row all the same."""

    def find(runs: Runs) -> Finding:
        raise NotMeasuredError(why)

    return Claim(
        name=name,
        sentence=sentence,
        source=source,
        published=_NONE,
        effect=f"not measured: {why}",
        unit="",
        rule=AtLeast(0.0),
        reason="Nothing is judged.",
        find=find,
    )
