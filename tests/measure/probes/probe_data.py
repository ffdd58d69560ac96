"""Features with labels, from easy to badly conditioned."""

import torch


def classes_in(n, d, classes, *, seed, apart=1.0, draw=0):
    """Gaussian classes with equal spread; `draw` gives other examples of the same classes."""
    generator = torch.Generator().manual_seed(seed)
    centers = apart * torch.randn(classes, d, generator=generator)
    generator.manual_seed(1000 * (seed + 1) + draw)
    y = torch.arange(n) % classes
    return centers[y] + torch.randn(n, d, generator=generator), y


def correlated(n, d, classes, *, seed):
    """Rectified mixtures of few directions: standard deviations and correlations of all sizes."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(classes, (n,), generator=generator)
    few = max(2, d // 4)
    scale = torch.arange(1, few + 1) ** -1.0
    centers = torch.randn(classes, few, generator=generator)
    z = (centers[y] + torch.randn(n, few, generator=generator)) * scale
    x = (z @ torch.randn(few, d, generator=generator)).relu()
    return x + 0.02 * torch.randn(n, d, generator=generator), y


def skew(n, d, classes, *, seed):
    """Most examples in one class, and features far from zero."""
    x, y = classes_in(n, d, classes, seed=seed)
    keep = torch.arange(n) % 7 == 0
    y = torch.where(keep, y, 0)
    return x + 3.0, y
