#!/usr/bin/env bash
# The whole way at a small scale, on the CPU in minutes: draw scenes, encode them, train the embedded default for a few
# hundred steps, plot the loss, draw images. What it draws is blurred: a real training is a hundred times longer.
# Usage: bash examples/train_smoke.sh [OUT]      (the same command again goes on where it stopped)
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
out=${1:-out/train-smoke}
steps=${STEPS:-300}

[ -e "$out/scenes/manifest.json" ] || ifuvit scenes --out "$out/scenes" --train 2000 --val 200
ifuvit prepare coco --images "$out/scenes/images/train" --captions "$out/scenes/annotations/captions_train.json" \
    --out "$out/encoded"
ifuvit train openmoji-cross-intermediate --data "$out/encoded" --out "$out/run" --steps "$steps" --batch-size 32 \
    --warmup-steps 50
python "$here/plot_loss.py" "$out/run"
ifuvit generate "three sheep" "a bus" "two apples" "an apple left of a bus" --model "$out/run" --out "$out/images" \
    --steps 20
