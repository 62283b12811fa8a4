#!/bin/sh
# Print LD_PRELOAD=… for Debian's OpenBLAS: MLX's Linux wheel carries a BLAS 25 times slower.
# Installs it where that is possible; elsewhere says how, once, and prints nothing.
[ "$(uname -s)" = Linux ] || exit 0
find_blas() {
    for lib in /usr/lib/*/openblas-pthread/libblas.so.3; do
        [ -e "$lib" ] && { echo "$lib"; return; }
    done
}
lib=$(find_blas)
if [ -z "$lib" ] && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    { apt-get update && apt-get install -y --no-install-recommends libopenblas0-pthread; } >&2 2>/dev/null
    lib=$(find_blas)
fi
if [ -n "$lib" ]; then
    echo "LD_PRELOAD=$lib"
else
    echo "hint: answers come 25 times faster with OpenBLAS: sudo apt-get install libopenblas0-pthread" >&2
fi
