#!/bin/sh
# The steps of src-tauri-snippets/README.md, word for word, on what `npm create tauri-app` makes; then the package is
# built, unpacked and started, and its page shows the sidecar's answer. Needs make desktop's set-up; takes minutes.
set -eu
cache=${CACHE:-$HOME/.cache/mlx-sidecar-dev}
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$cache/cargo-target}"
# The example app's profile instead of the template's: quick to build, and much of it is built already.
export CARGO_PROFILE_RELEASE_LTO=false CARGO_PROFILE_RELEASE_OPT_LEVEL=1 CARGO_PROFILE_RELEASE_CODEGEN_UNITS=64 \
    CARGO_PROFILE_RELEASE_PANIC=unwind CARGO_PROFILE_RELEASE_STRIP=true
SIDECAR=$PWD
export SIDECAR
tools/desktop.sh setup
tools/packages.sh
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
block() { # the first block of a language in the README's steps
    sed -n '/^## Five minutes/,$p' src-tauri-snippets/README.md | sed -n "/^\`\`\`$1\$/,/^\`\`\`\$/p" | sed '1d;/^```$/,$d'
}
block sh | sed 's/YOUR-PRODUCT-NAME/my-app/' > "$work/steps.sh"
{ printf '%s\n' 'const report = (...words: unknown[]) => document.body.append(words.join(" ") + "\n");'
  block ts | sed 's/console\.log(/report(/; s/\(onState.*\)console\.log/\1report/'; } > "$work/page.ts"
cd "$work"
npm create -y tauri-app@4.7.4 my-app -- --template react-ts --manager npm --identifier com.example.myapp --yes > create.log 2>&1
cd my-app
npm install --no-audit --no-fund --loglevel error
date +%s > ../began
sh -eu ../steps.sh
sed '/^import/!d' ../page.ts > src/page.ts
sed '/^import/d' ../page.ts >> src/page.ts
printf "import './page';\n" >> src/main.tsx
echo "the README's shell steps took $(($(date +%s) - $(cat ../began))) s"
# For the test alone: ports and folders of its own.
sed -i 's/Config::default()/Config::default().with_env()/' src-tauri/src/lib.rs
date +%s > ../began
npm run -s tauri -- build --bundles deb --ci
echo "building the package took $(($(date +%s) - $(cat ../began))) s"
deb=$(ls "$CARGO_TARGET_DIR"/release/bundle/deb/my-app_*.deb)
cp "$deb" "$work/my-app.deb"
rm -f "$deb"
cd "$SIDECAR"
MLX_SIDECAR_SCRATCH_DEB=$work/my-app.deb .venv/bin/python -m pytest -q -n0 --durations=1 tests/desktop/test_scratch.py
