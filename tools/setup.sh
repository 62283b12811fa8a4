#!/bin/sh
# Make the virtual environment $1 with every pinned package. Needs Python 3.11 or newer.
set -eu
venv=$1
python=${PYTHON:-python3}
cache=${CACHE:-$HOME/.cache/mlx-sidecar-dev}
"$python" - <<'PY' || { echo "Python 3.11 or newer is needed; say which with: make PYTHON=python3.12 …" >&2; exit 1; }
import sys
sys.exit(sys.version_info < (3, 11))
PY
key=$(sha256sum requirements/uv.txt 2>/dev/null || shasum -a 256 requirements/uv.txt)
tool=$cache/uv-$(printf %.12s "$key")
if [ ! -x "$tool/bin/uv" ]; then
    rm -rf "$tool.new" && mkdir -p "$cache" && "$python" -m venv "$tool.new"
    "$tool.new/bin/python" -m pip install -q --disable-pip-version-check --require-hashes -r requirements/uv.txt
    rm -rf "$tool" && mv "$tool.new" "$tool"
fi
uv="$tool/bin/python -m uv"
[ -x "$venv/bin/python" ] || $uv venv -q --python "$(command -v "$python")" "$venv"
$uv pip sync -q --require-hashes --python "$venv/bin/python" requirements/dev.txt
$uv pip install -q --python "$venv/bin/python" --no-deps --no-build-isolation -e .
touch "$venv/.ready"
