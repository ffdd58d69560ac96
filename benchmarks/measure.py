"""What the instruments cost, all of them: each topic in a process of its own, one after another.

    rank        feature ranks beside `svdvals`, scikit-learn's PCA and a forward pass
    features    units, kernels, neighbours and retrieval beside NumPy and scikit-learn
    curvature   Hessian products beside a gradient, eigenvalues and traces beside other packages
    probe       linear probes beside scikit-learn at equal accuracy
    surface     sharpness and landscapes beside the passes that they are made of

Ratios are taken within one process, where ours and the other take turns. A topic that fails is
said at the end, and the others are there all the same.

    python benchmarks/measure.py [--quick] [--only rank,surface] [--out FOLDER]
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent
TOPICS = ("rank", "features", "probe", "curvature", "surface")


def run_topic(topic: str, out: Path | None, quick: bool) -> bool:
    """Run the benchmark of a topic; whether it came to its end."""
    command = [sys.executable, str(HERE / f"measure_{topic}.py")]
    command += ["--quick"] if quick else []
    command += ["--out", str(out / f"measure_{topic}.json")] if out is not None else []
    began = time.perf_counter()
    done = subprocess.run(command, check=False)
    print(f"[{topic}: {time.perf_counter() - began:.0f} s, exit {done.returncode}]", flush=True)
    return done.returncode == 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small sizes, a few minutes in all")
    parser.add_argument("--only", default=",".join(TOPICS), help="topics, with commas")
    parser.add_argument("--out", type=Path, help="folder of measure_TOPIC.json and .txt")
    options = parser.parse_args()
    asked = [topic.strip() for topic in options.only.split(",")]
    for topic in asked:
        if topic not in TOPICS:
            parser.error(f"unknown topic {topic!r}: known: {', '.join(TOPICS)}")
    failed = [topic for topic in asked if not run_topic(topic, options.out, options.quick)]
    if failed:
        sys.exit(f"did not come to an end: {', '.join(failed)}")


if __name__ == "__main__":
    main()
