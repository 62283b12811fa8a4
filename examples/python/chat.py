"""Print an answer word by word: python examples/python/chat.py "What is the capital of France?" """

import sys

import openai

from host_api import SidecarHost


def main(question: str) -> None:
    """Ask one question and print the answer as it comes."""
    with SidecarHost() as host:  # starts a sidecar, or attaches to the one that runs
        sidecar = host.connection
        messages = [{"role": "user", "content": question}]
        with openai.OpenAI(base_url=sidecar.api_url, api_key=sidecar.token or "none") as client:
            for chunk in client.chat.completions.create(model="starter", messages=messages, temperature=0, stream=True):
                sys.stdout.write(chunk.choices[0].delta.content or "")
                sys.stdout.flush()
    sys.stdout.write("\n")


if __name__ == "__main__":
    main(" ".join(sys.argv[1:]) or "What is the capital of France?")
