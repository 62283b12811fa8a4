"""Find the lines nearest in meaning: python examples/python/search.py notes.txt "where do I sleep?" """

import sys
from pathlib import Path

import openai

from host_api import SidecarHost


def main(path: Path, query: str) -> None:
    """Embed every line and the query, and print the three nearest lines."""
    lines = [line for line in path.read_text().splitlines() if line.strip()]
    with SidecarHost() as host:
        sidecar = host.connection
        with openai.OpenAI(base_url=sidecar.api_url, api_key=sidecar.token or "none") as client:
            made = client.embeddings.create(model="starter-embedding", input=[query, *lines], encoding_format="float")
    wanted, *vectors = (item.embedding for item in made.data)  # of length 1, so a product is the cosine
    scores = [sum(a * b for a, b in zip(wanted, vector, strict=True)) for vector in vectors]
    for score, line in sorted(zip(scores, lines, strict=True), reverse=True)[:3]:
        sys.stdout.write(f"{score:.2f}  {line}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
