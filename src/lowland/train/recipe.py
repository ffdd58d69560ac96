"""A recipe: everything that a training run is asked to do, in one frozen record."""

from __future__ import annotations

import typing
from dataclasses import dataclass

from lowland.core.errors import InputError, unknown
from lowland.train.fields import at_least
from lowland.train.schedule import SCHEDULES
from lowland.train.settings import Options
from lowland.train.stepped import FEDERATED as FEDERATED
from lowland.train.stepped import NO_METHOD as NO_METHOD
from lowland.train.stepped import Stepped

BASES = ("adam", "adamw", "sgd")
CENTERS = ("example", "none", "unit")
DEVICES = ("auto", "cpu", "cuda")
MEMORY_FORMATS = ("channels_last", "contiguous")
PRECISIONS = ("32-true", "64-true", "bf16-mixed", "bf16-true")


@dataclass(frozen=True, kw_only=True)
class Recipe(Stepped):
    """What to train, how, and what to measure. Equal recipes are equal runs.

    Runs that differ in `precision`, `memory_format`, `compile` or `fused` alone ask for the same
    training, and round otherwise: after some updates their weights differ as those of two seeds do.

    Attributes:
        data: a data set by name (`lowland.data.DATASETS`).
        labels: train and test on these classes only; None for all.
        limit: train on at most so many images; None for all.
        held_out: share of the training images to hold out for validation, in place of the data
            set's own split of the two; None for that one.
        model: a network by name (`lowland.models.MODELS`).
        width: its width; None for its own default.
        depth: its blocks per superblock, hidden layers or blocks; None for its own default.
        init_scale: factor on all weight matrices and kernels at initialisation, the parameters of
            two or more dimensions (`lowland.models.scale_weights`).
        method: a sharpness-aware method by name (`lowland.optim.METHODS`), or ``none`` for the
            base optimizer alone.
        rho: radius ρ of the perturbation.
        method_options: further options of the method, as pairs or a mapping. Three more are
            the run's own: ``base_width`` for ``mup2``, ``ascent_batches`` for ``n-sam`` and
            ``start_epoch`` for ``saf`` (`lowland.train.arguments`).
        base: the base optimizer: ``sgd``, ``adam`` or ``adamw``. Methods of kind "base optimizer"
            (``adasam``, ``lightsam``) take its place.
        lr: learning rate at the start.
        momentum: heavy-ball momentum of ``sgd``.
        weight_decay: weight decay of the base optimizer, on all parameters.
        schedule: ``constant``, ``step`` (a tenth from 50% on, a hundredth from 90% on),
            ``halves`` (the same from 50% and 75% on), ``quarters`` (another tenth from 25%, 50% and
            75% on) or ``cosine`` (down to 0).
        epochs: passes over the training images.
        batch_size: images per update; the last, incomplete batch of an epoch is left out.
        augment: augment training images as the data set asks for.
        label_noise: at every update each label of the batch is, with this probability, replaced by
            one of the other classes, drawn anew (`lowland.train.noise`); both passes of a method
            see the same ones, evaluations none.
        seed: seed of initialisation, order and augmentation; never of the data split.
        evaluations: number of evaluations after the one at the start; the last is at the end.
        rank_blocks: glob over block names: what is measured in the last evaluation.
        rank_block: glob over block names: what is measured in every evaluation, and the features
            that nearest neighbours are found in.
        rank_examples: every measurement on training images is on the first so many of them,
            unaugmented: loss and error, features, sharpness. The test split is limited likewise
            for features alone; losses and errors on validation and test images are on all. At
            least 10, for the nearest neighbours.
        centers: conventions of the feature rank: ``unit``, ``example``, ``none``. Evaluations
            before the last one use the first.
        variances: shares of variance that the rank must explain.
        sharpness_rho: radius of the one-step sharpness in the last evaluation.
        measures: instruments by name (`lowland.measure.INSTRUMENTS`), beside what the evaluations
            measure; they never change the run. See `lowland.train.measures` for the columns.
        measure_every: updates between two of these measurements; the end has one too.
        measure_blocks: glob over the names of modules: the blocks that they look at.
        measure_options: their options, as ``INSTRUMENT.OPTION=VALUE``.
        transfer_labels: classes left out of `labels` on which nearest neighbours are tried too.
        transfer_data: further data sets by name on which nearest neighbours are tried, in the same
            features: normalised with the statistics of the images trained on, at their own size.
            `held_out` holds for them too.
        precision: ``32-true``, ``64-true``, ``bf16-mixed`` or ``bf16-true``. ``bf16-mixed`` keeps
            the weights in float32 and runs forward and backward passes of training under autocast;
            evaluations are in float32. (On NVIDIA GPUs torch's own convolutions in float32 round
            their factors to TF32.)
        memory_format: ``contiguous`` (images by channel: NCHW) or ``channels_last`` (NHWC, which
            convolutions on GPUs are fastest in): how images and kernels lie in memory.
        compile: run the passes of training through `torch.compile`; evaluations stay eager.
        fused: take the base optimizer's fused form, one kernel for all parameters. A
            sharpness-aware method then leaves it to the device to skip a gradient that is not
            finite (``nonfinite=device``, if `method_options` do not say otherwise), so that the
            host waits for no number within an update.
        device: ``auto`` (a GPU if there is one), ``cpu`` or ``cuda``.
        threads: CPU threads; the order of sums depends on them, so they are part of the recipe.
    """

    data: str = "digits"
    labels: tuple[int, ...] | None = None
    limit: int | None = None
    held_out: float | None = None
    model: str = "preact-resnet-small"
    width: int | None = None
    depth: int | None = None
    init_scale: float = 1.0
    method: str = "sam"
    rho: float = 0.0
    method_options: Options = ()
    base: str = "sgd"
    lr: float = 0.05
    momentum: float = 0.0
    weight_decay: float = 0.0
    schedule: str = "constant"
    epochs: int = 30
    batch_size: int = 64
    augment: bool = True
    label_noise: float = 0.0
    seed: int = 0
    evaluations: int = 10
    rank_blocks: str = "block*"
    rank_block: str = "block2"
    rank_examples: int = 10_240
    centers: tuple[str, ...] = ("unit", "example")
    variances: tuple[float, ...] = (0.99,)
    sharpness_rho: float = 0.05
    measures: tuple[str, ...] = ()
    measure_every: int = 100
    measure_blocks: str = "block*"
    measure_options: Options = ()
    transfer_labels: tuple[int, ...] | None = None
    transfer_data: tuple[str, ...] = ()
    precision: str = "32-true"
    memory_format: str = "contiguous"
    compile: bool = False
    fused: bool = False
    device: str = "auto"
    threads: int = 1

    def __post_init__(self) -> None:
        self.normalise()
        self.check_method()
        self._check_names()
        self._check_numbers()
        self._check_combinations()

    @property
    def files(self) -> tuple[str, ...]:
        """The files and folders that the data are in, where they have one."""
        from lowland.data import places

        return tuple(place for name in (self.data, *self.transfer_data) for place in places(name))

    def _check_names(self) -> None:
        from lowland.data import DATASETS, places
        from lowland.measure import INSTRUMENTS
        from lowland.models import MODELS

        kinds = {name.partition(":")[0] for name in DATASETS}
        for name in (self.data, *self.transfer_data):
            if name.partition(":")[0] not in kinds:
                raise unknown("data set", name, DATASETS)
            places(name)  # refuses settings that do not fit
        known: tuple[tuple[str, str, typing.Iterable[str]], ...] = (
            ("model", self.model, MODELS),
            ("base optimizer", self.base, BASES),
            ("schedule", self.schedule, SCHEDULES),
            ("precision", self.precision, PRECISIONS),
            ("memory format", self.memory_format, MEMORY_FORMATS),
            ("device", self.device, DEVICES),
            *(("center", center, CENTERS) for center in self.centers),
            *(("instrument", name, INSTRUMENTS) for name in self.measures),
        )
        for kind, name, names in known:
            if name not in names:
                raise unknown(kind, name, names)

    def _check_numbers(self) -> None:
        for name in (
            "epochs",
            "batch_size",
            "evaluations",
            "rank_examples",
            "measure_every",
            "threads",
        ):
            at_least(name, getattr(self, name), 1)
        for name in (
            "rho",
            "lr",
            "momentum",
            "weight_decay",
            "sharpness_rho",
            "seed",
            "label_noise",
        ):
            at_least(name, getattr(self, name), 0)
        for name in ("width", "depth", "limit"):
            if getattr(self, name) is not None:
                at_least(name, getattr(self, name), 1)
        for name in ("centers", "variances"):
            if not getattr(self, name):
                raise InputError(f"{name} is empty: give one or more")
        if self.init_scale <= 0:
            raise InputError(f"init_scale must be above 0, not {self.init_scale:g}")
        if self.label_noise >= 1:
            raise InputError(f"label_noise is a probability below 1, not {self.label_noise:g}")
        for variance in self.variances:
            if not 0 < variance <= 1:
                raise InputError(f"variances must be shares in (0, 1], not {variance}")

    def _check_combinations(self) -> None:
        if self.fused and self.brings_base:
            raise InputError(
                f"fused is of the base optimizer, and {self.method} brings its own: set fused=false"
            )
        for key, _ in self.measure_options:
            if key.partition(".")[0] not in self.measures:
                raise InputError(
                    f"measure_options: {key!r} begins with none of measures: write "
                    "INSTRUMENT.OPTION=VALUE, and name the instrument in measures"
                )
        self._check_measure_options()
        if self.transfer_labels is None:
            return
        if self.labels is None:
            raise InputError("transfer_labels need labels: name the classes to train on")
        if both := sorted(set(self.labels) & set(self.transfer_labels)):
            raise InputError(f"class {both[0]} is in labels and in transfer_labels: take it out")

    def _check_measure_options(self) -> None:
        """Refuse values that no instrument takes before a run has a directory."""
        if self.measure_options:
            from lowland.measure import read_options
            from lowland.train.measures import nested

            try:
                read_options(nested(self.measure_options))
            except InputError as error:
                raise InputError(f"measure_options: {error}") from None
