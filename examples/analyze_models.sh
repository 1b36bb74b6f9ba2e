#!/usr/bin/env bash
# The paper's section 4.6 with controls and causal checks, for any models side by side: what results/analysis/ was made with.
#   bash examples/analyze_models.sh OUT MODEL...
#   bash examples/analyze_models.sh results/analysis openmoji-4-concat-early openmoji-4-cross-intermediate
# An analysis that exists is left as it is, so after an interruption the same command resumes; remove its directory to run it
# again. About 12 minutes of one core's time for two models of the embedded size; docs/analysis.md explains the numbers.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
out=${1:?usage: analyze_models.sh OUT MODEL...}
shift

analyze() {
    local action=$1
    shift
    [ -e "$out/$action/analysis.json" ] || ifuvit analyze "$action" "$@" --out "$out/$action"
}

analyze rank "$@"
# 32 prompts: the default and the file's. The paper leaves out a border of one patch.
analyze attention "$@" --prompts-file "$here/analysis-prompts.txt" --crop-border 1
analyze ablate "$@" --num-prompts 64 --steps 10
analyze information "$@" --num-scenes 64
analyze probe "$@" --num-scenes 1000 --levels 0.1 0.5 0.9
