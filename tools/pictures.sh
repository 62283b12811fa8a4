#!/bin/sh
# Take the README's screenshots from what the tests left in artifacts/ (make test and make test-desktop) into
# docs/pictures/. Run by `make pictures`, when a page or an app looks different.
set -eu
take() {
    [ -f "$1" ] || { echo "$1 is missing; the test that takes it is in $3" >&2; exit 1; }
    .venv/bin/python - "$1" "docs/pictures/$2" <<'PY'
import sys
from PIL import Image
picture = Image.open(sys.argv[1]).convert("RGB")
picture.quantize(128, dither=Image.Dither.NONE).save(sys.argv[2], optimize=True)  # few colours: a third of the size
PY
}
take artifacts/page/light.png page-light.png tests/host_api/app/test_page.py
take artifacts/page/dark.png page-dark.png tests/host_api/app/test_page.py
take artifacts/desktop/10-pasted.png desktop-app.png tests/desktop/test_pictures.py
take artifacts/desktop/20-minimal.png tauri-minimal.png tests/desktop/test_minimal.py
