#!/bin/sh
# What a Tauri bundle takes, in dist/tauri/: binaries/mlx-sidecar-<triple> (the launcher, for externalBin), the frozen
# folder (for files or resources), and manifest.json with versions, sizes and SHA-256. Run by `make sidecar-dist`.
set -eu
triple=$(rustc -vV | sed -n 's/^host: //p')
(cd src-tauri-snippets && cargo build -q --release -p mlx-sidecar-launcher)
rm -rf dist/tauri
mkdir -p dist/tauri/binaries
cp "${CARGO_TARGET_DIR:-src-tauri-snippets/target}/release/mlx-sidecar-launcher" "dist/tauri/binaries/mlx-sidecar-$triple"
cp -a dist/mlx-sidecar dist/tauri/mlx-sidecar
"${1:?the python of the virtual environment}" - "$triple" <<'PY'
import hashlib, json, sys
from pathlib import Path
triple = sys.argv[1]
document = json.loads(Path("dist/manifest.json").read_text())
launcher = Path(f"dist/tauri/binaries/mlx-sidecar-{triple}").read_bytes()
document["triple"] = triple
document["launcher"] = {"size": len(launcher), "sha256": hashlib.sha256(launcher).hexdigest()}
Path("dist/tauri/manifest.json").write_text(json.dumps(document, indent=1, sort_keys=True) + "\n")
PY
echo "dist/tauri/binaries/mlx-sidecar-$triple"
