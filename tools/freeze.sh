#!/bin/sh
# Freeze the sidecar into dist/mlx-sidecar/ (or, with ONEFILE=1, dist/mlx-sidecar). Run by `make freeze`.
set -eu
python=${1:?the virtual environment\'s python}
cache=${CACHE:-$HOME/.cache/mlx-sidecar-dev}
export PYTHONHASHSEED=0 SOURCE_DATE_EPOCH="${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || echo 1700000000)}"
export MLX_SIDECAR_ONEFILE="${ONEFILE:-0}"
"$python" -m PyInstaller --noconfirm --log-level WARN --workpath "$cache/freeze-work" --distpath dist build/mlx_sidecar.spec
"$python" tools/freeze_finish.py dist
