#!/usr/bin/env bash
# Run an experiment as an array of SLURM jobs, one GPU each:
#   sbatch --array 1-16 examples/slurm_experiment.sh atlas --scale openmoji --seeds 3 --out atlas
# Every job gives the same command and takes the runs that no other one is at; the first one prepares the data while the others
# wait. So the array may be of any length, jobs may start and end when they like, and `sbatch` again goes on where all of them
# stopped. OUT must lie where all machines see it, on a file system with locks (flock: NFS 4, Lustre with -o flock), and
# `ifuvit` must be on the PATH. Five minutes before the time is up a job gets SIGTERM, writes a checkpoint and ends with status 143;
# it then puts itself back into the queue.
#SBATCH --job-name=ifuvit-experiment
#SBATCH --ntasks=1
#SBATCH --gpus-per-task=1
#SBATCH --cpus-per-task=8
#SBATCH --time=12:00:00
#SBATCH --signal=TERM@300
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=slurm-%A-%a.out
set -uo pipefail

export OMP_NUM_THREADS=1 # loader threads do the work beside the GPU
srun ifuvit experiment "$@"
status=$?

if [ "$status" -eq 143 ]; then
    scontrol requeue "${SLURM_ARRAY_JOB_ID}_${SLURM_ARRAY_TASK_ID}"
fi
exit "$status"
