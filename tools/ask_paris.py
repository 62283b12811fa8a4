"""Wait for the host and the sidecar it starts, ask the sidecar for the capital of France. For .ci/run."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from pathlib import Path

import httpx


def main(state_dir: str, port: str) -> int:
    """0 when the answer has Paris in it."""
    end = time.monotonic() + 180
    while time.monotonic() < end:
        with contextlib.suppress(OSError, ValueError, IndexError, httpx.HTTPError):
            httpx.get(f"http://127.0.0.1:{port}/health").raise_for_status()
            record = json.loads((Path(state_dir) / "sidecar.pid").read_text().splitlines()[1])
            answer = httpx.post(
                f"http://127.0.0.1:{record['port']}/v1/chat/completions",
                json={
                    "model": "starter",
                    "temperature": 0,
                    "messages": [{"role": "user", "content": "What is the capital of France?"}],
                },
                headers={"Authorization": f"Bearer {record['token']}"} if record["token"] else {},
                timeout=120,
            )
            if answer.status_code == httpx.codes.OK:
                text = answer.json()["choices"][0]["message"]["content"]
                print(text)
                return 0 if "Paris" in text else 1
        time.sleep(0.2)
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2]))
