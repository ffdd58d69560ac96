"""One name for every network."""

from __future__ import annotations

import dataclasses
import zipfile
from pathlib import Path

from lowland.core.errors import InputError
from lowland.data import Preprocessing
from lowland.inspection.exported import open_exported
from lowland.inspection.files import open_arrays, open_run, open_weights
from lowland.inspection.huggingface import open_huggingface
from lowland.inspection.scripted import open_script
from lowland.inspection.subject import How, Subject, channels_of
from lowland.inspection.timm_models import open_timm

FORMS = (
    "a run directory of lowland",
    "a file of weights (.safetensors, .pt, .pth, .bin, .ckpt) with --constructor or --model",
    "a TorchScript file (.pt, .ts) or an exported program (.pt2)",
    "a ViT or Mixer checkpoint in JAX layout (.npz)",
    "timm:NAME",
    "hf:NAME or hf:FOLDER",
)
"""What a model on the command line can be."""


def load_subject(name: str, how: How | None = None) -> Subject:
    """The network of a name, one of `FORMS`.

    Raises:
        InputError: there is no such network, or it cannot be loaded.
    """
    how = how or How()
    subject = _opened(name, how)
    return dataclasses.replace(subject, preprocessing=_preprocessing(subject, how))


def _opened(name: str, how: How) -> Subject:
    if how.tower is not None and not name.startswith("hf:"):
        raise InputError(f"--tower is for hf:NAME, {name} is none: leave it out")
    if name.startswith("timm:"):
        return open_timm(name, name)
    if name.startswith("hf:"):
        return open_huggingface(name, how.tower)
    path = Path(name).expanduser()
    if not path.exists():
        raise InputError(f"model {name}: no such file or folder; give {', or '.join(FORMS)}")
    if path.is_dir():
        return _folder(name, path)
    if path.suffix == ".npz":
        return open_arrays(name, path, how)
    if path.suffix == ".pt2":
        return open_exported(name, path, how.device)
    if path.suffix != ".safetensors" and _is_program(path):
        return open_script(name, path)
    return open_weights(name, path, how)


def _folder(name: str, path: Path) -> Subject:
    if (path / "run.json").exists():
        return open_run(name, path)
    if (path / "config.json").exists():
        raise InputError(f"{name} looks like a model of transformers: write hf:{name}")
    if (path / "study.json").exists() or (path / "runs").is_dir():
        raise InputError(f"{name} is the folder of a study: give one of its runs, {name}/runs/NAME")
    raise InputError(f"{name} has no run.json: give a run directory, or {', or '.join(FORMS[1:])}")


def _is_program(path: Path) -> bool:
    """Whether a file is a TorchScript archive: a zip file with code in it."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def _preprocessing(subject: Subject, how: How) -> Preprocessing | None:
    """How images are made: as the network says, with what the user says over it."""
    if subject.reads == "texts":
        for option in ("size", "mean", "std"):
            if getattr(how, option) is not None:
                raise InputError(f"--{option} is for images, {subject.name} reads texts")
        return None
    own = subject.preprocessing
    if how.mean is None and how.std is None and how.size is None:
        return own
    mean = how.mean if own is None else how.mean or own.mean
    std = how.std if own is None else how.std or own.std
    if mean is None or std is None:
        return None
    channels = channels_of(subject.module) or max(len(mean), len(std))
    made = dataclasses.replace(
        own or Preprocessing(mean=(0.0,), std=(1.0,)),
        mean=_spread(mean, channels),
        std=_spread(std, channels),
    )
    if how.mean is not None or how.std is not None:
        made = dataclasses.replace(made, unit=1.0)  # what the user gives is for values in [0, 1]
    if how.size is not None:
        made = dataclasses.replace(made, size=how.size, resize=None)
    return made


def _spread(numbers: tuple[float, ...], channels: int) -> tuple[float, ...]:
    return numbers * channels if len(numbers) == 1 else numbers
