"""Plot the training loss of a run: python plot_loss.py RUN writes RUN/loss.png, prints the loss at both ends and fails
if it did not fall."""

import json
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt


def main() -> None:
    run = Path(sys.argv[1])
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    points = [(row["step"], row["loss"]) for row in rows if "step" in row and "loss" in row]
    steps, losses = zip(*points)
    figure, axes = plt.subplots(figsize=(6, 3.5), layout="constrained")
    axes.plot(steps, losses, linewidth=1)
    axes.set(xlabel="step", ylabel="mean squared error of the noise", ylim=(0, None), title=run.name)
    figure.savefig(run / "loss.png", dpi=120)
    part = max(1, len(losses) // 5)
    first, last = sum(losses[:part]) / part, sum(losses[-part:]) / part
    print(f"{run / 'loss.png'}: mean loss of the first fifth {first:.4f}, of the last {last:.4f}")
    if not last < first:
        sys.exit("the loss did not fall")


if __name__ == "__main__":
    main()
