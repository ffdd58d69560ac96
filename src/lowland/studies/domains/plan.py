"""The runs of the study: every domain left out in turn."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from lowland.core.errors import InputError, unknown
from lowland.studies.domains.claims import claims
from lowland.studies.domains.drawings import figures, panels, tables
from lowland.studies.domains.experiment import LEAVE_OUT, contents_of
from lowland.studies.domains.readings import READ
from lowland.studies.recipes import all_rhos, at, base_recipe, own_settings
from lowland.studies.study import Choice, Plan, Planned, grid
from lowland.train import Experiment, Reading

if TYPE_CHECKING:
    from lowland.data import ImageData
    from lowland.train import Recipe

DIGITS, MNIST = "digits", "mnist"
_UNKNOWN = "The published settings are not known."
_OF_DIGITS = (
    "Rotated digits are turned by 0 to 75 degrees. Coloured digits have two classes, 0 to 4 and 5 "
    "to 9, a quarter of the labels is wrong, and the colour agrees with the label in 90%, 80% and "
    "10% of a domain's images."
)
_OF_OTHERS = ("A worst group and a domain as a spurious attribute: study balance.",)
_COMMON: Mapping[str, Any] = {
    "network": "cnn",
    "batch_size": 64,
    "momentum": 0.9,
    "weight_decay": 5e-4,
    "schedule": "cosine",
}
_SIZES: Mapping[str, Mapping[str, Any]] = {
    "smoke": {"width": 8, "epochs": 2, "lr": 0.05, "evaluations": 2, "limit": 200},
    "default": {"width": 64, "epochs": 20, "lr": 0.05, "evaluations": 5, "limit": None},
}
_SEEDS = {"smoke": 2, "default": 10, "paper": 3}
_TOGETHER = 5
_RHOS = {"smoke": (0.1,), "default": (0.05, 0.1, 0.2), "paper": (0.02, 0.05, 0.1, 0.2)}
_KINDS: Mapping[str, Any] = {
    "width": int,
    "epochs": int,
    "batch_size": int,
    "lr": float,
    "momentum": float,
    "weight_decay": float,
    "evaluations": int,
    "limit": int | None,
}
_RECIPE: Mapping[str, Any] = {
    "model": "resnet18",
    "base": "sgd",
    "lr": 0.01,
    "momentum": 0.9,
    "weight_decay": 5e-4,
    "schedule": "cosine",
    "epochs": 60,
    "batch_size": 64,
    "evaluations": 5,
}


def plan(choice: Choice) -> Plan:
    """Lay out a group of runs for every domain left out.

    Raises:
        InputError: another method at the sizes that train stacks, unknown settings, or data that
            have no domains.
    """
    names = data_names(choice.data)
    loaded = {kind: _load(next(iter(by_domain.values()))) for kind, by_domain in names.items()}
    kinds = {kind: [f"{kind} {d}" for d in by_domain] for kind, by_domain in names.items()}
    first = next(iter(kinds.values()))[-1]
    some = next(iter(loaded.values()))
    if _stacked(choice, some):
        settings = _settings(choice)
        runs, words = _stacks(choice, names, settings, loaded), _stack_words(settings)
    else:
        base = base_recipe(choice, {**_RECIPE, "data": DIGITS}, fixed=("data",))
        runs, words = _recipes(choice, names, base), _recipe_words(base)
    return Plan(
        runs=tuple(runs),
        claims=claims(kinds),
        panels=panels(first),
        fingerprint=some.fingerprint,
        notes=(*_notes(choice.data, loaded), words, *_OF_OTHERS),
        figures=partial(figures, kinds=kinds),
        tables=partial(tables, kinds=kinds),
    )


def data_names(data: str) -> dict[str, dict[str, str]]:
    """Words for each kind of domains -> domain left out -> the name of the data set.

    ``digits`` are rotated and coloured scikit-learn digits; ``mnist:PATH`` the same of MNIST; any
    other name is a data set with domains, without its ``test``, as in ``domains:FOLDER,size=96``.

    Raises:
        InputError: the data have no domains, or ``test`` is given.
    """
    kind, _, place = data.partition(":")
    bases = {"domains": data}
    if data == DIGITS:
        bases = {"rotated": "rotated-digits", "coloured": "colored-digits"}
    elif kind == MNIST:
        bases = {"rotated": f"rotated-mnist:{place}", "coloured": f"colored-mnist:{place}"}
    return {words: _by_domain(base) for words, base in bases.items()}


def _by_domain(base: str) -> dict[str, str]:
    """A name for every domain left out."""
    from lowland.data.digit_domains import ANGLES, CORRELATIONS

    if "test=" in base or "spurious=" in base:
        raise InputError(
            f"data {base!r}: leave test and spurious out; every domain is left out in turn (for a "
            "spurious domain see lowland study balance)"
        )
    kind = base.partition(":")[0]
    if kind.startswith("rotated-"):
        domains: Sequence[str] = ANGLES
    elif kind.startswith("colored-"):
        domains = list(CORRELATIONS)
    else:
        domains = _domains_of(base)
    mark = "," if ":" in base else ":"
    return {domain: f"{base}{mark}test={domain}" for domain in domains}


def _domains_of(base: str) -> list[str]:
    from lowland.data.domain_folders import domain_names

    if base.partition(":")[0] != "domains":
        raise InputError(
            f"data {base!r} has no domains: use digits, mnist:PATH or domains:FOLDER,size=PIXELS"
        )
    return domain_names(base)


def _load(name: str) -> ImageData:
    from lowland.data import load

    return load(name)


def _stacked(choice: Choice, data: ImageData) -> bool:
    """Whether small networks are trained as stacks: below paper size, on small images."""
    small = max(data.shape[1:]) <= 32
    if choice.size != "paper" and not small:
        raise InputError(
            f"images of {data.shape[1]} pixels are for --size paper, which trains ResNet-18s by "
            "recipes (with --set model=... another model)"
        )
    return choice.size != "paper"


def _settings(choice: Choice) -> dict[str, Any]:
    """The settings of stacks, with the caller's changes.

    Raises:
        InputError: another method, or an unknown setting.
    """
    from lowland.train.settings import parse

    if choice.method != "sam":
        raise InputError(f"balance/domains trains stacks with sam, not with {choice.method}")
    own, rest = own_settings(choice.overrides, _KINDS)
    for setting in rest:
        raise unknown("setting of balance/domains", setting.partition("=")[0].strip(), _KINDS)
    changes = {key: parse(key, text, _KINDS[key]) for key, text in own.items()}
    return {**_COMMON, **_SIZES[choice.size], **changes}


def _stacks(
    choice: Choice,
    names: Mapping[str, Mapping[str, str]],
    settings: Mapping[str, Any],
    loaded: Mapping[str, ImageData],
) -> Iterator[Planned]:
    from lowland.data import batch_count, places

    for data in loaded.values():  # refused here, before processes are started
        n = min(len(data.train), settings["limit"] or len(data.train))
        batch_count(n, batch_size=settings["batch_size"], drop_last=True)
    seeds = choice.seed_range(_SEEDS[choice.size])
    radii = all_rhos(choice, _RHOS[choice.size])
    contents = {kind: contents_of(data) for kind, data in loaded.items()}
    for first in range(seeds.start, seeds.stop, _TOGETHER):
        count = min(_TOGETHER, seeds.stop - first)
        for kind, by_domain in names.items():
            own = {**settings, "contents": contents[kind], "count": count, "radii": radii}
            for domain, name in by_domain.items():
                experiment = Experiment(
                    function=LEAVE_OUT,
                    settings={**own, "data": name},
                    method="sam",
                    seed=first,
                    files=places(name),
                )
                yield Planned(group=f"{kind} {domain}", recipe=experiment, many=True)


def _recipes(
    choice: Choice, names: Mapping[str, Mapping[str, str]], base: Recipe
) -> Iterator[Planned]:
    for rho, seed in grid(all_rhos(choice, _RHOS["paper"]), choice.seed_range(_SEEDS["paper"])):
        for kind, by_domain in names.items():
            for domain, name in by_domain.items():
                recipe = at(base.changed(data=name), choice.method, rho, seed)
                reading = Reading(recipe=recipe, function=READ)
                yield Planned(group=f"{kind} {domain}", recipe=reading)


def _notes(name: str, loaded: Mapping[str, ImageData]) -> tuple[str, ...]:
    data = next(iter(loaded.values()))
    sizes = (
        "Every domain is left out in turn. The others are trained on, but for 20% of their images, "
        f"which choose ρ; with the first one left out {len(data.train)} train, "
        f"{len(data.validation)} validation, {len(data.test)} test images. One fixed split for all "
        "seeds."
    )
    return (sizes, _OF_DIGITS) if name.partition(":")[0] in (DIGITS, MNIST) else (sizes,)


def _stack_words(settings: Mapping[str, Any]) -> str:
    limit = settings["limit"]
    return (
        f"SGD with momentum {settings['momentum']:g}, learning rate {settings['lr']:g} "
        f"({settings['schedule']}), batch {settings['batch_size']}, {settings['epochs']} epochs, "
        f"weight decay {settings['weight_decay']:g}"
        f"{'' if limit is None else f', at most {limit} train images'}. {_UNKNOWN}"
    )


def _recipe_words(base: Recipe) -> str:
    limit = "" if base.limit is None else f", at most {base.limit} train images"
    return (
        f"{base.model}; {base.base} with learning rate {base.lr:g} ({base.schedule}), momentum "
        f"{base.momentum:g}, batch {base.batch_size}, {base.epochs} epochs, weight decay "
        f"{base.weight_decay:g}{limit}. {_UNKNOWN}"
    )
