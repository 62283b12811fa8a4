"""A real process that keeps the protocol's files and breaks its promises, as FAULT_MODE says.

``exit`` ends with FAULT_EXIT after a line of output; ``mute`` holds the lock and never publishes; ``hang``
publishes, answers once it is asked, and stops answering at the first look of FAULT_HANG_FILE; ``plain`` is a small
sidecar of version FAULT_VERSION that stays until it is killed; ``stubborn`` is ``hang`` that ignores SIGTERM;
``honest`` is ``plain`` that leaves when the real one would.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import socket
import sys
import threading
import time
from pathlib import Path

from host_api.protocol.decision import ExitCode
from host_api.protocol.record import Owner
from sidecar.process.lifecycle import Lifecycle, LockHeld


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("serve")
    parser.add_argument("--state-dir", type=Path)
    parser.add_argument("--grace-time", type=float, default=10.0)
    parser.add_argument("--managed", action="store_true")
    args, _ = parser.parse_known_args()
    mode = os.environ.get("FAULT_MODE", "plain")
    if mode == "exit":
        sys.stderr.write("the last words of a broken sidecar\n")
        return int(os.environ["FAULT_EXIT"])
    try:
        life = Lifecycle.acquire(
            args.state_dir, managed=args.managed, grace_time=args.grace_time, owner=Owner.from_env(os.environ)
        )
    except LockHeld:
        return int(ExitCode.LOCK_HELD)
    if mode == "stubborn":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if mode == "mute":
        time.sleep(600)
    hang_file = Path(os.environ.get("FAULT_HANG_FILE", "/nonexistent"))
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        version = os.environ.get("FAULT_VERSION", "0.1.0")
        life.publish(host="127.0.0.1", port=port, version=version, token="t")
        document = {"status": "ready", "instance_id": life.instance_id, "version": version, "pid": os.getpid()}
        threading.Thread(target=answer, args=(server, json.dumps(document), hang_file), daemon=True).start()
        if mode == "honest":
            asyncio.run(until_it_may_leave(life))
            life.release()
            return 0
        while not hang_file.exists():
            time.sleep(0.02)
        time.sleep(600)
    return 0


async def until_it_may_leave(life: Lifecycle) -> None:
    asked = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, asked.set)
    tasks = [asyncio.create_task(life.watch()), asyncio.create_task(asked.wait())]
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()


def answer(server: socket.socket, body: str, hang_file: Path) -> None:
    kept = []
    while True:
        sock, _ = server.accept()
        if hang_file.exists():
            kept.append(sock)  # accepted, and never answered
            continue
        sock.recv(4096)
        head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        sock.sendall((head + body).encode())
        sock.close()


if __name__ == "__main__":
    sys.exit(main())
