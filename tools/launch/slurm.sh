#!/usr/bin/env bash
# Trains under SLURM. From the root of the repository, with its environment active:
#
#   sbatch --nodes=4 --gpus-per-node=8 --ntasks-per-node=8 tools/launch/slurm.sh \
#       python -m big_vision_like.train --config=configs/... --workdir=/shared/runs/x \
#       --multi-process
#
# One task per GPU: that is how JAX reads a SLURM job. A command that fails starts again
# in the same allocation, at most MAX_TRIES times; one stopped at the time limit or by
# preemption has saved, and the job is queued again. A job cancelled stays cancelled.
#
#SBATCH --job-name=big_vision_like
#SBATCH --output=%x-%j.log
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=TERM@300
#SBATCH --time=24:00:00
set -u
if (($# == 0)); then
  echo 'slurm.sh: name the command to run; the head of this file shows one' >&2
  exit 2
fi
cd "${SLURM_SUBMIT_DIR:-.}" || exit
tries=${MAX_TRIES:-10} pause=${RETRY_SECONDS:-10}

# Where NCCL picks the wrong network: export NCCL_SOCKET_IFNAME=ib0 before sbatch.

# Caught, not ignored: the tasks must see SIGTERM, this script must live to requeue.
trap 'true' TERM

for ((try = 1; ; try++)); do
  echo "slurm.sh: $(date -Is) attempt $try of job ${SLURM_JOB_ID:-none}," \
    "requeued ${SLURM_RESTART_COUNT:-0} times"
  # Every task must see all GPUs of its node; JAX takes the one with its local number.
  # When one task ends the others have two minutes to follow.
  srun --gpu-bind=none --wait=120 tools/launch/run.sh gpu "$@"
  status=$?
  if ((status == 0)); then
    exit 0
  elif ((status == 75)); then
    state=$(squeue --noheader --jobs="$SLURM_JOB_ID" --format=%T)
    if [[ $state == RUNNING ]]; then
      echo 'slurm.sh: stopped with everything saved; back into the queue'
      exec scontrol requeue "$SLURM_JOB_ID"
    fi
    exit "$status"
  elif ((try >= tries)); then
    echo "slurm.sh: status $status, and $tries attempts are enough" >&2
    exit "$status"
  fi
  echo "slurm.sh: status $status; again in $pause s"
  sleep "$pause"
  pause=$((pause * 2 > 600 ? 600 : pause * 2))
done
