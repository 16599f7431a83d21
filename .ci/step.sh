# Says what is run and how long all has taken so far, and runs it.
step() {
  printf '\n=== %s (after %d s)\n' "$*" "$SECONDS"
  "$@"
}
