#!/bin/sh
# Programs that tests drive: a Chromium for the page, a Secret Service for keys. Installs them where that is possible;
# where it is not, the tests that need them say how.
[ "$(uname -s)" = Linux ] || exit 0
wanted=
has() { command -v "$1" >/dev/null; }
if [ -z "${CHROMIUM:-}" ] && ! has chromium && ! has chromium-browser && ! has google-chrome-stable && ! has google-chrome; then
    wanted="chromium"
fi
has dbus-daemon || wanted="$wanted dbus-daemon"
has gnome-keyring-daemon || wanted="$wanted gnome-keyring"
if [ -n "$wanted" ] && [ "$(id -u)" = 0 ] && has apt-get; then
    # shellcheck disable=SC2086
    { apt-get update && apt-get -o DPkg::Lock::Timeout=120 install -y --no-install-recommends $wanted; } >/dev/null 2>&1 || true
fi
