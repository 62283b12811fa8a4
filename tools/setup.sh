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
uv() { "$tool/bin/python" -m uv "$@"; }
# On a Mac the wheels of the lowest macOS we promise, whatever this machine has: pip and uv take the highest that fits it,
# and a program frozen with mlx-metal's wheel for 26 dies on 14 (build/release.py checks what came in).
platform=
if [ "$(uname -s)" = Darwin ]; then
    [ "$(uname -m)" = arm64 ] || { echo "Apple Silicon is needed, and a native (arm64) shell and Python: not Intel, not Rosetta." >&2; exit 1; }
    export MACOSX_DEPLOYMENT_TARGET=14.0
    platform="--python-platform aarch64-apple-darwin"
fi
[ -x "$venv/bin/python" ] || uv venv -q --python "$(command -v "$python")" "$venv"
# shellcheck disable=SC2086
uv pip sync -q $platform --require-hashes --python "$venv/bin/python" requirements/dev.txt
uv pip install -q --python "$venv/bin/python" --no-deps --no-build-isolation -e .
touch "$venv/.ready"
