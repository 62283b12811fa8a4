#!/bin/sh
# Checks every crate with the oldest Rust that its Cargo.toml promises (rust-version):
#   tools/msrv.sh [--installed] [CRATE…]      without names: all three
# rustup fetches a missing toolchain; with --installed it doesn't, and what lacks one is said and left out.
set -eu
cache=${CACHE:-$HOME/.cache/mlx-sidecar-dev}
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$cache/cargo-target}/msrv"
cd src-tauri-snippets
installed=
[ "${1:-}" != --installed ] || { installed=1; shift; }
[ $# -gt 0 ] || set -- mlx-sidecar-host mlx-sidecar-launcher tauri-plugin-mlx-sidecar
for crate; do
    version=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' "$crate/Cargo.toml")
    [ -n "$version" ] || version=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml) # the workspace's
    if ! rustup run "$version" rustc -V >/dev/null 2>&1; then
        if [ -n "$installed" ] || ! command -v rustup >/dev/null; then
            echo "$crate: not checked with Rust $version, which is not installed; make msrv fetches it" >&2
            continue
        fi
        rustup toolchain install "$version" --profile minimal --no-self-update
    fi
    echo "$crate: Rust $version"
    (cd "$crate" && rustup run "$version" cargo check -q --all-features)
done
