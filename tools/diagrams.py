"""Draw the diagrams of the README and of docs/ as SVG, each in light and dark: ``python -m tools.diagrams``.

GitHub shows the one that fits the reader's theme by ``<picture>``. The drawing is code, so that a change of one box is
a change of one line; tests/test_docs.py compares the files with what this would write.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

FOLDER = Path(__file__).resolve().parent.parent / "docs" / "pictures"
THEMES = {
    "light": {
        "ink": "#1f2328",
        "soft": "#59636e",
        "line": "#818b98",
        "box": "#f6f8fa",
        "room": "#ffffff",
        "hot": "#0969da",
    },
    "dark": {
        "ink": "#f0f6fc",
        "soft": "#9198a1",
        "line": "#7d8590",
        "box": "#151b23",
        "room": "#0d1117",
        "hot": "#4493f8",
    },
}
FONT = "ui-sans-serif, system-ui, -apple-system, 'Segoe UI', Helvetica, Arial, sans-serif"


@dataclass
class Drawing:
    """A picture under construction. Places are (left, top, width, height), in pixels."""

    width: int
    height: int
    title: str
    parts: list[str] = field(default_factory=list)

    def box(self, place: tuple[int, int, int, int], name: str, *lines: str, kind: str = "box", key: str = "") -> None:
        """Add a box with a name and lines of smaller text under it; ``key`` is a coloured word at its right."""
        x, y, w, h = place
        dash = ' stroke-dasharray="5 4"' if kind == "room" else ""
        self.parts.append(
            f'<rect x="{x}" y="{y}" width="{w}" height="{h}" rx="8" fill="{{{kind}}}" stroke="{{line}}"{dash}/>'
        )
        self.text(x + 12, y + 22, name, weight=600)
        for i, line in enumerate(lines):
            self.text(x + 12, y + 41 + 17 * i, line, size=12, colour="soft")
        if key:
            self.text(x + w - 12, y + 22, key, size=12, colour="hot", anchor="end")

    def text(
        self,
        x: int,
        y: int,
        words: str,
        *,
        size: int = 14,
        colour: str = "ink",
        weight: int = 400,
        anchor: str = "start",
    ) -> None:
        """Add a line of text with its baseline at ``y``."""
        self.parts.append(
            f'<text x="{x}" y="{y}" font-size="{size}" font-weight="{weight}" fill="{{{colour}}}" '
            f'text-anchor="{anchor}">{escape(words)}</text>'
        )

    def arrow(self, *points: tuple[int, int], colour: str = "line", both: bool = False) -> None:
        """Add a line through ``points`` with a head at its end, or at both."""
        path = " ".join(f"{'M' if i == 0 else 'L'}{x} {y}" for i, (x, y) in enumerate(points))
        start = f' marker-start="url(#{colour})"' if both else ""
        self.parts.append(
            f'<path d="{path}" fill="none" stroke="{{{colour}}}" stroke-width="1.5" '
            f'marker-end="url(#{colour})"{start}/>'
        )

    def svg(self, theme: str) -> str:
        """Return the file's text in a theme."""
        heads = "".join(
            f'<marker id="{name}" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" '
            f'orient="auto-start-reverse"><path d="M0 0L8 4L0 8z" fill="{{{name}}}"/></marker>'
            for name in ("line", "hot")
        )
        body = "\n".join(self.parts)
        text = (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {self.width} {self.height}" width="{self.width}" '
            f'height="{self.height}" font-family="{FONT}" role="img" aria-label="{escape(self.title)}">\n'
            f"<title>{escape(self.title)}</title>\n<defs>{heads}</defs>\n{body}\n</svg>\n"
        )
        for name, value in THEMES[theme].items():
            text = text.replace(f"{{{name}}}", value)
        return text


def sharing() -> Drawing:
    """Who uses the sidecar: the picture at the top of the README."""
    d = Drawing(860, 320, "Desktop apps, Python programs and a terminal share one sidecar on the user's machine")
    d.box((20, 20, 210, 62), "Tauri app", "the plugin, in Rust")
    d.box((20, 96, 210, 62), "another app", "attaches to the same one")
    d.box((20, 172, 210, 62), "Python program", "host_api.SidecarHost")
    d.box((20, 248, 210, 52), "terminal", "mlx-sidecar chat")
    d.box((320, 20, 220, 280), "state directory", kind="room")
    d.box((336, 56, 188, 62), "hosts.lock", "shared by all who use it")
    d.box((336, 130, 188, 62), "sidecar.lock", "held while it lives")
    d.box((336, 204, 188, 80), "sidecar.pid", "process, port, token:", "owner-readable alone")
    for y in (51, 127, 203):
        d.arrow((230, y), (320, y), both=True)
    d.box((630, 20, 210, 280), "one sidecar", kind="room", key="127.0.0.1")
    d.box((646, 56, 178, 80), "OpenAI's API", "chat, pictures, tools,", "schemas, embeddings")
    d.box((646, 150, 178, 62), "MLX engine", "chats before batch work")
    d.box((646, 226, 178, 62), "models", "one copy in memory")
    d.arrow((540, 161), (630, 161), both=True)
    d.text(585, 150, "owns", size=12, colour="soft", anchor="middle")
    d.arrow((230, 274), (275, 274), (275, 312), (735, 312), (735, 300), colour="hot")
    d.text(585, 306, "HTTP", size=12, colour="hot", anchor="middle")
    return d


def architecture() -> Drawing:
    """The rooms of the server and the way of a question through them."""
    d = Drawing(900, 430, "The rooms of the sidecar and the way of a question through them")
    d.box((20, 20, 410, 390), "the listener", kind="room", key="never imports MLX")
    d.box((40, 60, 170, 62), "cli", "what a person types")
    d.box((240, 60, 170, 62), "process", "lock, port, drain, end")
    d.box(
        (40, 150, 370, 96),
        "api",
        "guard, schemas, admission, answers as JSON or",
        "server-sent events: knows HTTP, no token",
    )
    d.box((40, 290, 370, 100), "models", "names to folders, downloads, imports,", "what is in memory and for how long")
    d.box((470, 20, 410, 390), "the engine's side", kind="room", key="alone owns MLX")
    d.box(
        (490, 60, 370, 80),
        "text",
        "words to tokens and back: templates, pictures,",
        "tool calls, thinking, stop strings",
    )
    d.box(
        (490, 170, 370, 96),
        "engine",
        "decides and decodes: scheduler, prefill, decode",
        "batches, grammars, kept prefixes, memory",
    )
    d.box(
        (490, 300, 370, 90),
        "backend",
        "the only importer of mlx_vlm: loading, families,",
        "caches, stepping aside between vision blocks",
    )
    d.arrow((410, 176), (450, 176), (450, 100), (490, 100), colour="hot")
    d.text(450, 92, "job", size=12, colour="hot", anchor="middle")
    d.arrow((490, 222), (410, 222), colour="hot")
    d.text(450, 238, "text", size=12, colour="hot", anchor="middle")
    d.arrow((675, 140), (675, 170))
    d.arrow((675, 266), (675, 300))
    d.arrow((225, 246), (225, 290))
    d.arrow((410, 340), (490, 340))
    d.text(450, 332, "load", size=12, colour="soft", anchor="middle")
    d.arrow((125, 122), (125, 150))
    d.arrow((325, 122), (325, 150))
    return d


DRAWINGS = {"sharing": sharing, "architecture": architecture}


def files() -> dict[str, str]:
    """Return the text of every file by its name."""
    return {f"{name}-{theme}.svg": draw().svg(theme) for name, draw in DRAWINGS.items() for theme in THEMES}


if __name__ == "__main__":
    FOLDER.mkdir(parents=True, exist_ok=True)
    for file_name, text in files().items():
        (FOLDER / file_name).write_text(text, "utf-8")
    sys.exit(0)
