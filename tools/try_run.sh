#!/bin/sh
# Start `make run` on free ports with state of its own, wait until the sidecar answers "Paris", stop it again.
set -eu
work=$(mktemp -d)
python=.venv/bin/python
port=$("$python" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
export MLX_SIDECAR_STATE_DIR="$work/state" MLX_HOST_STATE_DIR="$work/state" MLX_HOST_DATA_DIR="$work/host" MLX_HOST_LOG_DIR="$work/logs"
export MLX_HOST_SIDECAR_PORT=0
make run PORT="$port" >"$work/output" 2>&1 &
pid=$!
trap 'kill $pid 2>/dev/null || true; wait $pid 2>/dev/null || true; rm -rf "$work"' EXIT
if ! "$python" tools/ask_paris.py "$work/state" "$port"; then
    cat "$work/output" >&2
    exit 1
fi
kill -TERM "$pid"
wait "$pid" || true
# The host ends at once, the sidecar when its grace time (10 s) has passed without a host.
for _ in $(seq 300); do
    if ! "$python" -m sidecar.entry status --state-dir "$work/state" >/dev/null && ! pgrep -f "serve --port $port" >/dev/null
    then
        echo "make run: the host on port $port started the sidecar, it answered, and both stopped"
        exit 0
    fi
    sleep 0.1
done
echo "make run left a process behind" >&2
exit 1
