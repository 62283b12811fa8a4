#!/bin/sh
# What would be published, packed into dist/packages: two crates and the npm package of the page's side.
set -eu
cache=${CACHE:-$HOME/.cache/mlx-sidecar-dev}
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$cache/cargo-target}"
out=$PWD/dist/packages
rm -rf "$out"
mkdir -p "$out"
verify=--no-verify
[ "${1:-}" != --verify ] || verify=
(
    cd src-tauri-snippets
    # shellcheck disable=SC2086
    cargo package -q -p mlx-sidecar-host --allow-dirty --all-features $verify
    cd tauri-plugin-mlx-sidecar
    # Until the crate it needs is published, the registry's is the one beside it.
    # shellcheck disable=SC2086
    cargo package -q --allow-dirty $verify --config 'patch.crates-io.mlx-sidecar-host.path="../mlx-sidecar-host"'
)
version=$(sed -n 's/^version = "\(.*\)"/\1/p' src-tauri-snippets/Cargo.toml)
cp "$CARGO_TARGET_DIR/package/mlx-sidecar-host-$version.crate" \
    "$CARGO_TARGET_DIR/package/tauri-plugin-mlx-sidecar-$version.crate" "$out/"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cp -R src-tauri-snippets/tauri-plugin-mlx-sidecar/guest-js/. "$work/"
(cd "$work" && npm install --no-audit --no-fund --loglevel error && npm pack --silent --pack-destination "$out" >/dev/null)
ls "$out"
