#!/usr/bin/env bash
# jobmanager | taskmanager | run ARGUMENT ... (of `flink run`) | any other command
set -euo pipefail
JAVA_HOME="$(python -m services.java)"
export JAVA_HOME

case "$1" in
  jobmanager) exec "$FLINK_HOME/bin/jobmanager.sh" start-foreground ;;
  # Under the name by which the others reach this container, not the one of localhost.
  taskmanager) exec "$FLINK_HOME/bin/taskmanager.sh" start-foreground -D taskmanager.host="$(hostname)" ;;
  run) exec "$FLINK_HOME/bin/flink" "$@" ;;
  *) exec "$@" ;;
esac
