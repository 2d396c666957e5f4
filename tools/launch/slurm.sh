#!/usr/bin/env bash
# Trains under SLURM. Run from the root of the repository, in its environment:
#
#   sbatch --nodes=4 --gpus-per-node=8 --ntasks-per-node=8 tools/launch/slurm.sh \
#       python -m big_vision_like.train --config=configs/... --workdir=/shared/runs/x \
#       --multi-process
#
# There must be one task per GPU, as JAX reads a SLURM job. A command that fails is
# restarted in the same allocation, at most MAX_TRIES times. A command that is stopped
# at the time limit or by preemption has saved, and the job is requeued. A cancelled job
# is not requeued.
#
#SBATCH --job-name=big_vision_like
#SBATCH --output=%x-%j.log
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=TERM@300
#SBATCH --time=24:00:00
set -u
if (($# == 0)); then
  echo 'slurm.sh: add the command to run; see the example at the top of this file' >&2
  exit 2
fi
cd "${SLURM_SUBMIT_DIR:-.}" || exit
tries=${MAX_TRIES:-10} pause=${RETRY_SECONDS:-10}

# If NCCL picks the wrong network: export NCCL_SOCKET_IFNAME=ib0 before sbatch.

# Trap SIGTERM without ignoring it: tasks must receive it, and this script must requeue.
trap 'true' TERM

for ((try = 1; ; try++)); do
  echo "slurm.sh: $(date -Is) attempt $try of job ${SLURM_JOB_ID:-none}," \
    "requeued ${SLURM_RESTART_COUNT:-0} times"
  # Every task must see all GPUs of its node; JAX picks the one with its local number.
  # When one task ends, the others have two minutes to end.
  srun --gpu-bind=none --wait=120 tools/launch/run.sh gpu "$@"
  status=$?
  if ((status == 0)); then
    exit 0
  elif ((status == 75)); then
    state=$(squeue --noheader --jobs="$SLURM_JOB_ID" --format=%T)
    if [[ $state == RUNNING ]]; then
      echo 'slurm.sh: stopped with everything saved; requeueing the job'
      exec scontrol requeue "$SLURM_JOB_ID"
    fi
    exit "$status"
  elif ((try >= tries)); then
    echo "slurm.sh: status $status; giving up after $tries attempts" >&2
    exit "$status"
  fi
  echo "slurm.sh: status $status; retrying in $pause s"
  sleep "$pause"
  pause=$((pause * 2 > 600 ? 600 : pause * 2))
done
