#!/usr/bin/env bash
# Train on one or many machines under SLURM, one task a GPU:
#   sbatch --nodes 4 --ntasks-per-node 8 --gpus-per-node 8 --time 24:00:00 examples/slurm_train.sh PRESET --data ENCODED --out RUN
# The encoded data set and the run directory must lie where all machines see them, and `ifuvit` must be on the PATH there. Five minutes
# before the time is up the tasks get SIGTERM, write a checkpoint and end with status 143; the job then puts itself back
# into the queue and goes on where it stopped, until it is finished.
#SBATCH --job-name=ifuvit-train
#SBATCH --cpus-per-task=8
#SBATCH --signal=TERM@300
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=slurm-%j.out
set -uo pipefail

# What torchrun would set; without it between them, signals reach the training processes themselves.
MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
export MASTER_ADDR
export MASTER_PORT=$((20000 + SLURM_JOB_ID % 20000))
export OMP_NUM_THREADS=1 # loader processes do the work beside the GPU
srun --cpus-per-task="${SLURM_CPUS_PER_TASK:-1}" bash -c 'RANK=$SLURM_PROCID LOCAL_RANK=$SLURM_LOCALID WORLD_SIZE=$SLURM_NTASKS \
    exec ifuvit train "$@"' ifuvit "$@"
status=$?

if [ "$status" -eq 143 ]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
