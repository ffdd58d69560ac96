"""Records of inspections, made up."""

from __future__ import annotations

from typing import Any


def record_of(name: str, value: Any, **fields: Any) -> dict[str, Any]:
    return {
        "name": name,
        "value": value,
        "definition": f"definition of {name}",
        "n": 100,
        "dtype": "float64",
        "seconds": 0.25,
        "uncertainty": None,
        "converged": True,
        "seed": None,
        **fields,
    }


def made_subject(name: str, blocks: list[str], shift: int = 0) -> dict[str, Any]:
    rows = {}
    for place, block in enumerate(blocks):
        k = 10 * (place + 1) + shift
        spectrum = [2.0 ** -(i / 4) for i in range(40)]
        rows[block] = {
            "rank": record_of("feature_rank", k, dimension=64, spectrum=spectrum),
            "knn": record_of("knn_error", 0.05 + 0.01 * place, uncertainty=0.004),
            "slope": record_of("slope", 0.012345 * k, converged=place > 0),
        }
    model = {
        "loss": record_of("mean_loss", 1.5 + shift, uncertainty=0.02, error=0.25),
        "slope": record_of("slope", 0.5, rho=0.05, m=64, seed=3),
    }
    return {
        "name": name,
        "kind": "file of weights",
        "parameters": 12345,
        "dtype": "float32",
        "device": "cpu",
        "preprocessing": {"words": "shorter side 224", "mean": [0.5]},
        "capturing": {"tokens": "class"},
        "n": 100,
        "facts": {"sha256": {"w.pt": "abc"}},
        "notes": [f"A note on <{name}>."],
        "blocks": rows,
        "model": model,
        "seconds": 1.5,
    }


def made_inspection(count: int = 1, blocks: list[str] | None = None) -> dict[str, Any]:
    names = blocks or [f"block{i}" for i in range(1, 5)]
    subjects = [made_subject("runs/first.pt", names)]
    if count == 2:
        subjects.append(made_subject("runs/second.pt", [*names[:-1], "other"], shift=-2))
    between = {b: {"cka": record_of("cka", 0.9)} for b in names[:-1]} if count == 2 else {}
    return {
        "format": "lowland-inspection",
        "version": 1,
        "asked": {
            "what": ["rank", "knn", "loss", "slope"],
            "options": {"rank": {"center": "example"}},
            "batch_size": 64,
        },
        "preset": {"name": "low-rank-paper", "words": "as <published>", "source": "arXiv 1"},
        "instruments": [
            {"name": n, "words": f"what {n} is", "source": "S", "looks_at": "features"}
            for n in ("rank", "knn", "loss", "slope")
        ],
        "data": {
            "name": "npz:data.npz",
            "kind": "images",
            "split": "train",
            "n": 100,
            "labelled": True,
            "classes": 3,
            "order": "as in the file",
            "source": {"sha256": {"data.npz": "def"}},
        },
        "subjects": subjects,
        "comparisons": [{"name": "cka", "words": "alignment"}] if count == 2 else [],
        "notes": ["A note on the data."],
        "between": between,
        "seconds": 3.0,
        "provenance": {
            **dict.fromkeys(("time", "lowland", "torch", "numpy", "python", "platform"), "x"),
            **{"commit": "c0ffee", "modified": True, "cpu": "A CPU", "cores": 2, "gpu": None},
        },
    }
