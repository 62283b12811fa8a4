"""Draw the loss curve of a log.

python -m training.starter_vision.curve training/starter_vision/run/log.jsonl training/starter_vision/run/loss.svg
"""

from __future__ import annotations

import json
import sys
from pathlib import Path


def main() -> None:
    """Entry point."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "eyes"
    from matplotlib import pyplot

    lines = [json.loads(line) for line in Path(sys.argv[1]).read_text("utf-8").splitlines()]
    eyes = [line for line in lines if line["stage"] == "eyes" and "form" in line]
    figure, axes = pyplot.subplots(2, 1, figsize=(7, 7), sharex=True)
    for name in ("form", "kind", "index", "colour", "centre", "answer"):
        axes[0].plot([x["step"] for x in eyes if name in x], [x[name] for x in eyes if name in x], label=name, lw=1)
    axes[0].set(yscale="log", ylabel="loss")
    for name in ("a_right", "b_right", "count_right", "letter_right", "place_right"):
        axes[1].plot([x["step"] for x in eyes], [x[name] for x in eyes], label=name.removesuffix("_right"), lw=1)
    axes[1].set(xlabel="step (768 pictures each)", ylabel="entries of the form right")
    for part in axes:
        part.legend()
    figure.savefig(sys.argv[2], bbox_inches="tight", metadata={"Date": None})


if __name__ == "__main__":
    main()
