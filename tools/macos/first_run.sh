#!/bin/sh
# Everything that must be seen on a Mac, one step after another, into one report to send back. On Linux it goes as far as it can.
#
#   tools/macos/first_run.sh              # all steps; about half an hour and 12 GB of disk with the models
#   tools/macos/first_run.sh --list      # the steps
#   tools/macos/first_run.sh --only starter,ownership --report report.md
#
# Nothing is changed outside this checkout but ~/.cache/mlx-sidecar-dev (builds, the models); no step needs
# administrator rights. A step that fails is written down, and the next one goes on.
set -eu
cd "$(dirname "$0")/../.."
for python in "${PYTHON:-}" python3.11 python3.12 python3.13 python3; do
    if [ -n "$python" ] && "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
        exec "$python" tools/macos/first_run.py "$@"
    fi
done
echo "Python 3.11 or newer is needed; say which with: PYTHON=python3.12 $0" >&2
exit 1
