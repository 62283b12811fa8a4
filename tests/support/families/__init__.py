"""Every model family as a tiny random model, and the matrix that runs it beside mlx-vlm's own generation."""

from tests.support.families import google, llava, mistral, others, qwen, text
from tests.support.families.folder import build
from tests.support.families.spec import FAMILIES, NOT_MADE, Family

__all__ = ["FAMILIES", "NOT_MADE", "Family", "build"]

_ = (google, llava, mistral, others, qwen, text)  # each enters its families into the table
