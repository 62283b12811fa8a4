#!/bin/sh
# Freeze the sidecar into dist/mlx-sidecar/ (a folder) and, with ONEFILE=1, dist/onefile/mlx-sidecar too. Run by `make freeze`.
# A build of the same inputs is taken from the cache.
set -eu
# macOS has shasum; its absence and the other's gave an empty key once.
sum() { if command -v sha256sum >/dev/null; then sha256sum; else shasum -a 256; fi; }
python=${1:?the python of the virtual environment}
cache=${CACHE:-$HOME/.cache/mlx-sidecar-dev}
onefile=${ONEFILE:-0}
key=$({ echo "$onefile ${MLX_SIDECAR_WITH:-}"; "$python" -VV
        find sidecar host_api build requirements/dev.txt -type f \
            ! -path 'host_api/app/*' ! -name '*.pyc' | LC_ALL=C sort | xargs cat; } | sum | cut -c1-16)
[ ${#key} -eq 16 ] || { echo "no key for the cache: neither sha256sum nor shasum works" >&2; exit 1; }
kept=$cache/frozen/$key
if [ ! -d "$kept" ]; then
    # The same commit gives the same bytes: a fixed hash seed and the commit's time for what is stamped.
    export PYTHONHASHSEED=0 MLX_SIDECAR_ONEFILE="$onefile"
    SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || echo 1700000000)}
    export SOURCE_DATE_EPOCH
    # Folders of this run alone: two clones that freeze at once would write into each other's.
    new=$kept.new.$$
    trap 'rm -rf "$new" "$new.work"' EXIT
    mkdir -p "$cache/frozen"
    "$python" -m PyInstaller --noconfirm --log-level ERROR --workpath "$new.work" --distpath "$new" build/mlx_sidecar.spec
    "$python" build/finish.py "$new"
    find "$cache/frozen" -mindepth 1 -maxdepth 1 -type d -mtime +7 -exec rm -rf {} +
    [ -d "$kept" ] || mv "$new" "$kept"
fi
rm -rf dist/mlx-sidecar dist/onefile dist/manifest.json
mkdir -p dist
cp -a "$kept/mlx-sidecar" "$kept/manifest.json" dist/
if [ "$onefile" = 1 ]; then
    mkdir -p dist/onefile
    cp "$kept/mlx-sidecar-onefile" dist/onefile/mlx-sidecar
fi
echo dist/mlx-sidecar
