#!/bin/sh
# Sign every Mach-O of a frozen folder, libraries first, the program last. With --dry-run only print the commands.
# Needs CODESIGN_IDENTITY ("Developer ID Application: … (TEAMID)").
set -eu
dry=0
[ "${1:-}" = --dry-run ] && { dry=1; shift; }
app=${1:?the folder to sign}
identity=${CODESIGN_IDENTITY:?set CODESIGN_IDENTITY to the name of your Developer ID certificate}
entitlements=$(cd "$(dirname "$0")" && pwd)/entitlements.plist

is_macho() {
    case $(od -An -tx1 -N4 "$1" | tr -d ' ') in
        cffaedfe | cefaedfe | cafebabe | feedfacf) return 0 ;;
        *) return 1 ;;
    esac
}
sign() {
    if [ "$dry" = 1 ]; then
        echo codesign --force --timestamp --options runtime "$@"
    else
        codesign --force --timestamp --options runtime --sign "$identity" "$@"
    fi
}
# Links are not signed: what they lead to is. Deepest files first.
find "$app" -type f ! -name mlx-sidecar | awk -F/ '{ print NF, $0 }' | sort -rn | cut -d' ' -f2- |
    while IFS= read -r file; do is_macho "$file" && sign "$file" || true; done
if [ -f "$app/mlx-sidecar" ]; then sign --entitlements "$entitlements" "$app/mlx-sidecar"; fi
