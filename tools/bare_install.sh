#!/bin/sh
# Installs the wheel and the sdist as strangers do, each in an empty home: pip, uvx, pipx, and with --full the extra
# [sidecar] too, which answers a question. Fetches what they need from the package index; --full some 250 MB.
set -eu
full=
[ "${1:-}" != --full ] || full=1
python=$(command -v "${PYTHON:-python3}")
root=$PWD
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir "$work/source" "$work/dist"
git archive HEAD | tar -x -C "$work/source"
"$python" -m venv "$work/tools"
"$work/tools/bin/pip" install -q --disable-pip-version-check uv pipx build
"$work/tools/bin/python" -m build --outdir "$work/dist" "$work/source" >"$work/built" 2>&1 || { cat "$work/built" >&2; exit 1; }
wheel=$(echo "$work"/dist/*.whl)
sdist=$(echo "$work"/dist/*.tar.gz)

# A shell as a new user has it: nothing of this project, its variables or its packages. What names the package index stays.
bare() {
    home=$work/home-$1
    shift
    mkdir -p "$home"
    (cd "$home" && env -i HOME="$home" PATH="$work/tools/bin:$(dirname "$python"):/usr/bin:/bin" \
        ${UV_INDEX_URL:+UV_INDEX_URL="$UV_INDEX_URL"} ${UV_DEFAULT_INDEX:+UV_DEFAULT_INDEX="$UV_DEFAULT_INDEX"} \
        ${PIP_INDEX_URL:+PIP_INDEX_URL="$PIP_INDEX_URL"} ${SSL_CERT_FILE:+SSL_CERT_FILE="$SSL_CERT_FILE"} \
        ${PIP_CONFIG_FILE:+PIP_CONFIG_FILE="$PIP_CONFIG_FILE"} ${UV_CONFIG_FILE:+UV_CONFIG_FILE="$UV_CONFIG_FILE"} \
        MLX_SIDECAR_DATA_DIR="${MLX_SIDECAR_DATA_DIR:-}" "$@")
}

check() { # the output of the rest must have the word
    word=$1
    shift
    out=$(bare "$@" 2>&1) || true
    case $out in
        *"$word"*) ;;
        *) printf '%s\nlacks: %s (%s)\n' "$out" "$word" "$*" >&2; exit 1 ;;
    esac
}

version=$(sed -n 's/^__version__ = "\(.*\)"/\1/p' sidecar/__init__.py)
for file in "$wheel" "$sdist"; do
    bare pip "$python" -m venv --clear venv
    bare pip venv/bin/pip install -q --disable-pip-version-check "$file"
    check "$version" pip venv/bin/mlx-sidecar version
    check stopped pip venv/bin/mlx-host status
    check "pip install 'mlx-sidecar[sidecar]'" pip venv/bin/mlx-sidecar serve
    echo "pip install ${file##*/}: runs, and says what it lacks"
done
check "$version" uvx uvx --from "$wheel" mlx-sidecar version
echo "uvx --from ${wheel##*/} mlx-sidecar: runs"
check "$version" pipx pipx run --spec "$wheel" mlx-sidecar version
bare pipx pipx install -q "$wheel" >/dev/null 2>&1
check "$version" pipx .local/bin/mlx-sidecar version
echo "pipx run --spec, pipx install: run"
if [ -n "$full" ]; then
    check Paris full uvx --from "${wheel}[sidecar]" mlx-sidecar chat --temperature 0 "What is the capital of France?"
    echo "uvx --from '${wheel##*/}[sidecar]' mlx-sidecar chat: answers"
fi
cd "$root"
