#!/usr/bin/env bash
# Runs one worker of a job:  tools/launch/run.sh tpu|gpu|cpu COMMAND...
#
# Sets the platform's flags (xla_flags.py), forwards SIGTERM to the command, and
# distinguishes "stopped, restart me" (status 75) from "done" (0): on SIGTERM training
# saves and exits with 0, which a cluster would take for the end of the run.
#
# If RUN_PID_FILE is set, an earlier attempt that is still running is stopped first,
# because it would hold the accelerators.
set -u
if (($# < 2)); then
  echo "usage: $0 tpu|gpu|cpu COMMAND..." >&2
  exit 2
fi
for word in "$@"; do
  if [[ $word == --overwrite ]]; then
    echo 'run.sh: leave out --overwrite: a launcher reruns the command to resume after a' \
      'failure, and each time it would remove the run' >&2
    exit 2
  fi
done
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
flags=$(python3 "$here/xla_flags.py" "$1") || exit
eval "$flags"
shift

if [[ -n ${RUN_PID_FILE:-} ]]; then
  old=$(cat "$RUN_PID_FILE" 2>/dev/null)
  lives() { grep -q run.sh "/proc/$old/cmdline" 2>/dev/null; }
  if [[ -n $old ]] && lives; then
    echo "run.sh: stopping an earlier attempt that is still running (process $old)" >&2
    kill -TERM "$old"
    for ((waited = 0; waited < 300; waited++)); do
      lives || break
      sleep 1
    done
    lives && pkill -KILL -P "$old"
  fi
  echo $$ >"$RUN_PID_FILE"
fi

child='' stopped=''
hand_on() {
  stopped=1
  [[ -z $child ]] || kill -TERM "$child" 2>/dev/null
}
trap hand_on TERM INT
"$@" &
child=$!
[[ -z $stopped ]] || kill -TERM "$child"
wait "$child"
status=$?
while kill -0 "$child" 2>/dev/null; do # a signal ends `wait`, but not the command
  wait "$child"
  status=$?
done
# 143: SIGTERM arrived before training handled it.
if [[ -n $stopped ]] && ((status == 0 || status == 143)); then
  exit 75
fi
exit "$status"
