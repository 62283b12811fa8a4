"""What a loaded model can do, as a record that the engine asks in place of the family's name.

Each entry is "" for yes, or the reason for a no. What the architecture itself tells is written down at load; what only
a try can tell comes from the self-check after it, or from a batch that breaks while the model serves.
"""

from __future__ import annotations

import importlib.util
import re
from dataclasses import dataclass, fields


@dataclass(eq=False, kw_only=True)
class Capabilities:
    """What one loaded model can; "" means that it can, anything else is the reason why not.

    ``cut``: a prompt processed in pieces; ``cut_pictures``: one with pictures. ``group``: several prompts processed
    together, padded on the left. ``batch``: several rows decoded in one pass. ``keep``: prefixes kept for a next turn.
    ``rewind``: tokens taken back out of the cache. ``see``: pictures. ``hear``: sound.
    """

    cut: str = ""
    cut_pictures: str = ""
    group: str = ""
    batch: str = ""
    keep: str = ""
    rewind: str = ""
    see: str = ""
    hear: str = ""

    def rule_out(self, name: str, reason: str) -> bool:
        """Write down that the model can't do ``name``; return whether that is news."""
        if getattr(self, name):
            return False
        setattr(self, name, reason)
        return True

    def document(self) -> dict[str, bool | str]:
        """Return the record for people and clients: true, or the reason for a no."""
        return {f.name: getattr(self, f.name) or True for f in fields(self)}


def known(model_type: str) -> bool:
    """Return whether mlx-vlm has an architecture of that name, or of the name it stands for."""
    from mlx_vlm.utils import MODEL_REMAPPING

    module = str(MODEL_REMAPPING.get(model_type, model_type))
    return bool(re.fullmatch(r"\w+", module)) and importlib.util.find_spec(f"mlx_vlm.models.{module}") is not None
