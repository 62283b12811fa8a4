#!/bin/sh
# Check and build the host service's page into $1. Node packages live in the cache, by the lock file's content.
set -eu
out=$1
case $out in /*) ;; *) out=$PWD/$out ;; esac
here=$(cd "$(dirname "$0")/../host_api/app/web" && pwd)
cache=${CACHE:-$HOME/.cache/mlx-sidecar-dev}
command -v npm >/dev/null || { echo "the page is built with Node.js 20.19 or newer, which has npm: install it (Debian: apt-get install nodejs npm)" >&2; exit 1; }
key=$(cat "$here/package.json" "$here/package-lock.json" | { sha256sum 2>/dev/null || shasum -a 256; } | cut -c -12)
modules=$cache/web-$key
if [ ! -e "$modules/ready" ]; then
    mkdir -p "$cache"
    fresh=$(mktemp -d "$cache/web.XXXXXX")
    cp "$here/package.json" "$here/package-lock.json" "$here/.npmrc" "$fresh"
    (cd "$fresh" && npm ci --no-audit --no-fund --ignore-scripts --loglevel=error >&2)
    touch "$fresh/ready"
    mv "$fresh" "$modules" 2>/dev/null || rm -rf "$fresh"
fi
work=$(mktemp -d "$cache/web-build.XXXXXX")
trap 'rm -rf "$work"' EXIT
cp -R "$here/src" "$here/index.html" "$here/package.json" "$here/tsconfig.json" "$here/vite.config.js" "$work"
ln -s "$modules/node_modules" "$work/node_modules"
cd "$work"
npm run --silent check
npm run --silent build -- --outDir "$out" --emptyOutDir --logLevel warn
