"""Print how much the code explains: ``python -m tools.explain_share [COMMIT]``.

The share of lines that are comments of their own (linters' marks aside), and the mean lines of a docstring, for
``sidecar/`` and ``host_api/``, of the working tree or of a commit.
"""

from __future__ import annotations

import ast
import io
import re
import subprocess
import sys
import tokenize
from pathlib import Path

MARKS = re.compile(r"#\s*(noqa|type:|ruff|pragma|!)")


def sources(commit: str | None) -> list[str]:
    """Return the text of every Python file of the two packages."""
    command = ["git", "ls-tree", "-r", "--name-only", commit] if commit else ["git", "ls-files"]
    names = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    wanted = [name for name in names if re.match(r"(sidecar|host_api)/.*\.py$", name)]
    if commit is None:
        return [Path(name).read_text("utf-8") for name in wanted if Path(name).exists()]
    show = ["git", "show"]
    return [subprocess.run([*show, f"{commit}:{n}"], capture_output=True, text=True, check=True).stdout for n in wanted]


def count(text: str) -> tuple[int, int, int, int]:
    """Return the lines that aren't empty, the explaining comment lines, the docstrings, and their lines."""
    lines = sum(1 for line in text.splitlines() if line.strip())
    comments = 0
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT and not MARKS.match(token.string):
            comments += token.line.strip().startswith("#")
    docs = [
        ast.get_docstring(node) or ""
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    said = [doc for doc in docs if doc]
    return lines, comments, len(said), sum(len(doc.splitlines()) for doc in said)


if __name__ == "__main__":
    counted = map(count, sources(sys.argv[1] if len(sys.argv) > 1 else None))
    code, notes, docstrings, doc_lines = (sum(column) for column in zip(*counted, strict=True))
    print(f"{code} lines, {notes / code:.1%} explaining comments")
    print(f"{docstrings} docstrings of {doc_lines / docstrings:.1f} lines")
