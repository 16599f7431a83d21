#!/usr/bin/env bash
# jobmanager | taskmanager             of a session cluster
# application SCRIPT.py ARGUMENT ...   a job manager with this one job
# run ARGUMENT ...                     `flink run`: submits a job to a session cluster
# any other command                    as it is, such as what Kubernetes is told by Flink
#
# FLINK_PROPERTIES has lines "key: value", as with Flink's own image. They become options of the
# command line, because the root file system may be read-only.
set -euo pipefail

options=()
while IFS= read -r line; do
  if [[ "$line" =~ ^[[:space:]]*([^#:[:space:]]+):[[:space:]]+(.*)$ ]]; then
    options+=(-D "${BASH_REMATCH[1]}=${BASH_REMATCH[2]}")
  fi
done <<< "${FLINK_PROPERTIES:-}"

case "${1:-}" in
  jobmanager)
    exec jobmanager.sh start-foreground "${options[@]}" "${@:2}" ;;
  taskmanager)
    # Under the name by which the others reach this container.
    exec taskmanager.sh start-foreground -D "taskmanager.host=$(hostname)" "${options[@]}" "${@:2}" ;;
  application)
    exec standalone-job.sh start-foreground "${options[@]}" \
      --job-classname org.apache.flink.client.python.PythonDriver \
      -pyclientexec "$(command -v python)" -py "${@:2}" ;;
  run)
    exec flink run "${options[@]}" "${@:2}" ;;
  *)
    exec "$@" ;;
esac
