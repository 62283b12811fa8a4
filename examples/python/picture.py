"""Ask about a picture: python examples/python/picture.py photo.png "What is in this picture?" """

import base64
import mimetypes
import sys
from pathlib import Path

from host_api import SidecarHost


def main(path: Path, question: str) -> None:
    """Send the picture as a data URL, with nothing but the HTTP client that comes along."""
    kind = mimetypes.guess_type(path)[0] or "image/png"
    url = f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"
    content = [{"type": "text", "text": question}, {"type": "image_url", "image_url": {"url": url}}]
    with SidecarHost() as host, host.connection.client(timeout=300) as http:  # follows a restarted sidecar
        body = {"model": "starter", "temperature": 0, "messages": [{"role": "user", "content": content}]}
        answer = http.post("/v1/chat/completions", json=body)
        answer.raise_for_status()
    sys.stdout.write(answer.json()["choices"][0]["message"]["content"] + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), " ".join(sys.argv[2:]) or "What is in this picture?")
