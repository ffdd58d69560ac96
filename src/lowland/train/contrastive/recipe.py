"""A recipe for two towers: which images, texts and encoders, how they are trained and measured."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lowland.core.errors import InputError, unknown
from lowland.train.fields import at_least
from lowland.train.recipe import CENTERS, DEVICES, PRECISIONS
from lowland.train.schedule import SCHEDULES
from lowland.train.settings import Options
from lowland.train.stepped import Stepped

BASES = ("adam", "adamw", "published-adam", "sgd")
PIXELS = ("encoder", "unit")
CAPTION_FORMS = ("plain", "published")
OWN_TEXTS = ("words", "characters")


@dataclass(frozen=True, kw_only=True)
class ContrastiveRecipe(Stepped):
    """What two towers are trained on, how, and what is measured. Equal recipes are equal runs.

    A run as `lowland.train.run` makes it: it resumes, bit for bit on a CPU, and is named by a hash
    of what determines it. Every update is on `batch_size` pairs, each with one caption drawn at
    random among the image's own; evaluations take the first one. Nothing is augmented, and encoders
    are trained without dropout (and without stochastic depth, unless `image_options` ask for it).

    Attributes:
        data: pairs by name (`lowland.data.PAIRS`).
        image_column, caption_column: columns of ``parquet:`` and ``hf:``; None finds usual names.
        size: images become squares of so many pixels; None leaves them.
        limit: train on at most so many pairs; None for all.
        image: an encoder of images: ``vit`` (this package's, of any size), a name of
            `lowland.models.MODELS` without its head, ``timm:NAME``, or ``hf:NAME`` or
            ``hf:FOLDER`` of transformers, by their first token.
        image_options: of ``vit``: patch, width, depth, heads; of other models here: width; of
            ``timm:``: what ``timm.create_model`` takes, `pretrained` among it.
        pixels: ``encoder`` (as its weights want them; by mean and standard deviation of the
            training images where it has none) or ``unit`` (only scaled to [0, 1], as the released
            experiments of arXiv 2305.16292 do).
        text: an encoder of texts: ``words`` or ``characters`` (this package's, with a vocabulary
            of the training captions), or ``hf:NAME`` or ``hf:FOLDER``.
        text_options: of this package's: width, depth, heads.
        pool: how a text's tokens become one vector: ``first``, ``mean`` (padding left out) or
            ``positions`` (over all `max_tokens` positions, padding included, as in the released
            experiments).
        max_tokens: texts are cut off there.
        captions: ``plain``, or ``published``: as Python prints their bytes, b'...', which is what
            the released experiments feed in.
        pretraining: updates in which this package's encoder learns to guess masked words of the
            training captions before anything else; the same encoder for all seeds.
        freeze_text: leave the text encoder as it starts, and train its head alone. Without
            pretraining this package's own is then a random one, the same for all seeds.
        dimension: d of the common space.
        bottleneck: h of a linear bottleneck in both heads; None for none.
        temperature: T of InfoNCE.
        method, rho, method_options: as in `Recipe`; methods that need losses of single examples
            or labels have no meaning here and are refused.
        base: ``adam``, ``adamw``, ``sgd``, or ``published-adam``, which keeps no state
            (`lowland.optim.StatelessAdam`).
        lr, momentum, weight_decay, schedule, epochs, batch_size, seed, evaluations: as in `Recipe`.
            Batches are also what retrieval is measured in.
        rank_examples: training pairs that are measured, the first ones; ranks of test features
            are of as many pairs at most. At least a batch.
        centers: conventions of the feature rank; evaluations before the last use the first.
        variances: shares of variance that the rank must explain.
        precision, device, threads: as in `Recipe`.
    """

    data: str = "digits-captions"
    image_column: str | None = None
    caption_column: str | None = None
    size: int | None = None
    limit: int | None = None
    image: str = "vit"
    image_options: Options = ()
    pixels: str = "encoder"
    text: str = "words"
    text_options: Options = ()
    pool: str = "first"
    max_tokens: int = 32
    captions: str = "plain"
    pretraining: int = 0
    freeze_text: bool = False
    dimension: int = 64
    bottleneck: int | None = None
    temperature: float = 0.05
    method: str = "sam"
    rho: float = 0.0
    method_options: Options = ()
    base: str = "adam"
    lr: float = 1e-3
    momentum: float = 0.0
    weight_decay: float = 0.0
    schedule: str = "cosine"
    epochs: int = 25
    batch_size: int = 128
    seed: int = 0
    evaluations: int = 10
    rank_examples: int = 1280
    centers: tuple[str, ...] = ("unit", "example")
    variances: tuple[float, ...] = (0.99, 0.95, 0.9, 0.85)
    precision: str = "32-true"
    device: str = "auto"
    threads: int = 1

    def __post_init__(self) -> None:
        self.normalise()
        self.check_method()
        self._check_names()
        self._check_numbers()
        self._check_encoders()

    @property
    def files(self) -> tuple[str, ...]:
        """Files and folders that it reads, which every machine must see."""
        kind, _, place = self.data.partition(":")
        data = (place,) if place and kind != "hf" else ()
        return data + tuple(str(folder) for folder in self.folders)

    @property
    def folders(self) -> tuple[Path, ...]:
        """Folders of encoders."""
        names = (name.partition(":")[2] for name in (self.image, self.text) if name[:3] == "hf:")
        places = (Path(name).expanduser() for name in names)
        return tuple(place for place in places if place.is_dir())

    def check(self) -> None:
        """Read the data and build towers and optimizer, on the CPU; nothing is written.

        Raises:
            InputError: what a run would end with before its first update.
        """
        from lowland.train.contrastive.plan import check_recipe

        check_recipe(self)

    def run(self, root: str | os.PathLike[str], **watched: Any) -> Path:
        """Train, measure, and leave a run directory under `root`; see `lowland.train.run`."""
        from lowland.train.contrastive.plan import make_plan
        from lowland.train.loop import watched_run

        return watched_run(lambda: make_plan(self), root, **watched)

    def _check_names(self) -> None:
        from lowland.data import PAIRS
        from lowland.models import POOLS

        kinds = {name.partition(":")[0] for name in PAIRS}
        if self.data.partition(":")[0] not in kinds:
            raise unknown("data set of pairs", self.data, PAIRS)
        for kind, name, names in (
            ("base optimizer", self.base, BASES),
            ("schedule", self.schedule, SCHEDULES),
            ("precision", self.precision, PRECISIONS),
            ("device", self.device, DEVICES),
            ("pool", self.pool, POOLS),
            ("choice of pixels", self.pixels, PIXELS),
            ("form of captions", self.captions, CAPTION_FORMS),
            *(("center", center, CENTERS) for center in self.centers),
        ):
            if name not in names:
                raise unknown(kind, name, names)

    def _check_numbers(self) -> None:
        for name in ("epochs", "evaluations", "threads", "dimension", "max_tokens"):
            at_least(name, getattr(self, name), 1)
        at_least("batch_size", self.batch_size, 2)  # one pair alone has nothing to be told from
        at_least("rank_examples", self.rank_examples, self.batch_size)
        for name in ("rho", "lr", "momentum", "weight_decay", "seed", "pretraining"):
            at_least(name, getattr(self, name), 0)
        for name in ("size", "limit", "bottleneck"):
            if getattr(self, name) is not None:
                at_least(name, getattr(self, name), 1)
        if self.temperature <= 0:
            raise InputError(f"temperature must be above 0, not {self.temperature:g}")
        for name in ("centers", "variances"):
            if not getattr(self, name):
                raise InputError(f"{name} is empty: give one or more")
        for variance in self.variances:
            if not 0 < variance <= 1:
                raise InputError(f"variances must be shares in (0, 1], not {variance}")

    def _check_encoders(self) -> None:
        from lowland.models import MODELS

        if self.image.partition(":")[0] not in ("hf", "timm", *MODELS):
            raise unknown("encoder of images", self.image, [*MODELS, "timm:NAME", "hf:NAME"])
        own = self.text in OWN_TEXTS
        if not own and self.text.partition(":")[0] != "hf":
            raise unknown("encoder of texts", self.text, [*OWN_TEXTS, "hf:NAME"])
        if not own and (self.pretraining or self.text_options):
            raise InputError(
                "pretraining and text_options are for text=words and text=characters: "
                f"{self.text} comes as it is"
            )
        if self.base == "published-adam" and self.schedule != "constant":
            raise InputError(
                "published-adam loses its step count too, so that no schedule ever moves: set "
                "schedule=constant"
            )
