"""The 1,797 handwritten digits, 8x8, that scikit-learn carries."""

from __future__ import annotations

import hashlib

import numpy as np
import torch

from lowland.data.images import ImageData, Split, assemble
from lowland.data.split import hold_out


def read_digits(name: str, seed: int) -> ImageData:
    """Digits (grey values 0 to 16), split 60 / 20 / 20 within each class.

    Source: E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI, 1998; the
    part that scikit-learn carries. It has no official split.
    """
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = np.ascontiguousarray(bunch.images, dtype=np.uint8)
    labels = np.ascontiguousarray(bunch.target, dtype=np.int64)
    digest = hashlib.sha256(images.tobytes() + labels.tobytes()).hexdigest()
    n = len(labels)
    whole = Split(torch.from_numpy(images)[:, None], torch.from_numpy(labels), torch.arange(n))
    kept, held = hold_out(whole.labels, 0.2, seed=seed, name=name)
    rest, test = whole.select(kept), whole.select(held)
    kept, held = hold_out(rest.labels, 0.25, seed=seed, name=name)
    return assemble(
        name,
        train=rest.select(kept),
        validation=rest.select(held),
        test=test,
        augmentation="shift",
        source={
            "sha256": {"scikit-learn digits, image and label bytes": digest},
            "rule": "stratified: 20% test, then 25% of the rest validation",
            "split_seed": seed,
        },
    )
