#!/usr/bin/env bash
# Every benchmark of a GPU in under ten minutes, into results/bench/DEVICE/:
#   bash examples/gpu_table.sh [--against U-VIT-CHECKOUT] [--out DIR] [--smoke]
# Results that exist are kept, so after a failure the same command resumes. --smoke tries everything out on a CPU, with
# small models and one round; its times mean nothing. Nothing else should run on the machine.
#
# Ten minutes: in a round each case takes an untimed step and then as many as fill 0.1 s. At batch 256 a training step of the paper's
# settings is 17 to 25 TFLOP: in bf16 about 0.1 s (250 TFLOP/s), in fp32 about 0.5 s (50 TFLOP/s). With 6 rounds,
#   train      3 models and 18 matrix products: 6 x (3 x 0.2 + 18 x 0.15) = 20 s in bf16, 6 x (3 x 1 + 18 x 0.2) = 40 s in fp32
#   compiled   the same in bf16, and a minute or less for each of two models to be compiled:          20 s + 90 s
#   sample     7 steps and 12 products, each half as long:                                            10 s and 25 s
#   scaling    6 to 10 points on each of 6 axes at batch 64, and 44 models to make:           6 x 7 s + 44 x 1 s
#   generate   3 ways to generate 256 small images, about 1 s each, twice a round:                             50 s
# and some seconds to start each. These are estimates, never measured, so each also has a limit; together 495 s. What is not
# ready by then is left out, and the table says "not measured".
set -uo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

against=() out="" smoke=false
while [ $# -gt 0 ]; do
    case $1 in
        --against) against=(--against "${2:?--against needs a checkout of U-ViT}"); shift 2 ;;
        --out) out=${2:?--out needs a directory}; shift 2 ;;
        --smoke) smoke=true; shift ;;
        *) sed -n '2,5s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2; exit 2 ;;
    esac
done

if $smoke; then
    common=(--device cpu --rounds 1 --warmup 2 --min-seconds 0)
    models=(--settings openmoji-concat-early openmoji-cross-intermediate --batch-size 2)
    generate=(--steps 2 1 --batch-size 1 --precision fp32)
    scaling=(--settings openmoji-cross-intermediate --image-tokens 16 --text-tokens 4 --depth 4)
    name=smoke
else
    if ! name=$(python -c 'import torch; print(torch.cuda.get_device_name().lower().replace(" ", "-"))' 2>/dev/null); then
        echo "no CUDA device here; --smoke needs none" >&2
        exit 2
    fi
    common=(--device cuda --rounds 6 --min-seconds 0.1)
    models=(--settings concat-early cross-intermediate --batch-size 256)
    generate=(--steps 50 15 --batch-size 256 --precision bf16)
    scaling=(--batch-size 64 --text-tokens 16 308 --depth 4 20)
fi
out=${out:-results/bench/$name}
mkdir -p "$out"

# take NAME SECONDS ACTION ARGUMENT...: makes the result NAME, unless it is there, in at most so many seconds.
take() {
    local result=$out/$1.json log=$out/$1.log limit=$2 started=$SECONDS
    if [ -e "$result" ]; then
        echo "$result: exists already"
        return
    fi
    if $smoke; then limit=$((10 * limit)); fi # a busy machine may take long to try it out
    if timeout --kill-after 5 "$limit" ifuvit bench "${@:3}" "${common[@]}" --out "$result" >"$out/$1.txt" 2>"$log"; then
        echo "$result: $((SECONDS - started)) s"
        rm "$log"
    else
        echo "$result: not measured after $((SECONDS - started)) of $limit s; $log ends with: $(tail -n 1 "$log")" >&2
        failed=1
    fi
}

failed=0
take train 120 train "${models[@]}" "${against[@]}"
take sample 80 sample "${models[@]}" "${against[@]}"
$smoke || take train-compiled 130 train "${models[@]}" "${against[@]}" --precision bf16 --compile
take scaling 100 scaling "${scaling[@]}"
take generate 65 generate "${generate[@]}" "${against[@]}"
python "$here/speed_table.py" "$out" | tee "$out/table.md"
echo "$SECONDS s in all"
exit "$failed"
