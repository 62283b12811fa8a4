#!/bin/sh
# Write requirements/*.txt anew: exact versions with hashes, for every platform, and no download addresses.
set -eu
cache=${CACHE:-$HOME/.cache/mlx-sidecar-dev}
for uv in "$cache"/uv-*/bin/uv; do [ -x "$uv" ] && break; done
[ -x "$uv" ] || uv=uv
compile() { "$uv" pip compile -q --universal --python-version 3.11 --generate-hashes --no-header --no-emit-index-url "$@"; }
echo uv | compile - -o requirements/uv.txt
compile pyproject.toml --all-extras --group dev -o requirements/dev.txt
compile pyproject.toml --extra sidecar -o requirements/sidecar.txt
