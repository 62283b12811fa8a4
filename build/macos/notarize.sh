#!/bin/sh
# Notarise a signed folder or app and staple the ticket. With --dry-run only print the commands.
# Needs NOTARY_PROFILE, made once with: xcrun notarytool store-credentials
set -eu
run() { "$@"; }
[ "${1:-}" = --dry-run ] && { run() { echo "$@"; }; shift; }
target=${1:?the folder, .app or .dmg to notarise}
profile=${NOTARY_PROFILE:?set NOTARY_PROFILE to a keychain profile of notarytool}
archive=${TMPDIR:-/tmp}/$(basename "$target").zip
run ditto -c -k --keepParent "$target" "$archive"
run xcrun notarytool submit "$archive" --keychain-profile "$profile" --wait
case $target in
    *.app | *.dmg | *.pkg) run xcrun stapler staple "$target" ;;
    *) echo "a plain folder can't be stapled: staple the app or disk image that carries it" ;;
esac
