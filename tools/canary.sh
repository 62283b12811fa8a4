#!/bin/bash
# Run the matrix of model families against the newest mlx-vlm, mlx and transformers: `make canary`.
# They are installed into an environment of its own, outside the clone; nothing of the project's environment changes.
set -euo pipefail
cache=${CACHE:-$HOME/.cache/mlx-sidecar-dev}
place=$cache/canary
root=$(cd "$(dirname "$0")/.." && pwd)
python=${PYTHON:-python3}

rm -rf "$place"
"$python" -m venv "$place"
"$place/bin/python" -m pip install --quiet --upgrade pip
mlx=mlx
[ "$(uname)" = Linux ] && mlx='mlx[cpu]'
"$place/bin/python" -m pip install --quiet --upgrade "$mlx" mlx-vlm transformers
"$place/bin/python" -m pip install --quiet filelock httpx psutil llguidance prometheus-client pydantic pillow fastapi jsonschema
"$place/bin/python" -m pip list --format=freeze | grep -iE '^(mlx|mlx-vlm|transformers)=='
cd "$root"
MLX_SIDECAR_FAMILIES=$place/families PYTHONPATH=$root "$place/bin/python" -m tools.families --out "$place/families.md" --rows "$place/rows.json" "$@"
echo "the table: $place/families.md"
