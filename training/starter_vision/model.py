"""The eyes in PyTorch, named and shaped as mlx-vlm's smolvlm loads them, and the frozen language model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from training.starter_vision import feed, slots
from training.starter_vision.scenes import COLOUR_NAMES, SHAPES


@dataclass(frozen=True)
class EyesConfig:
    """Sizes of the vision tower; ``scale`` patches a side become one image token."""

    side: int = 192
    hidden: int = 384
    layers: int = 10
    heads: int = 6
    mlp: int = 1152
    patch: int = 8
    scale: int = 4
    text_hidden: int = 576
    middle: int = 6  # blocks before the helper heads look at the patches

    @property
    def patches(self) -> int:
        """Patches along a side."""
        return self.side // self.patch

    @property
    def tokens(self) -> int:
        """Image tokens of a picture."""
        return (self.patches // self.scale) ** 2


class _Attention(nn.Module):
    def __init__(self, c: EyesConfig) -> None:
        super().__init__()
        self.heads = c.heads
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            setattr(self, name, nn.Linear(c.hidden, c.hidden))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            p(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for p in (self.q_proj, self.k_proj, self.v_proj)
        )
        return self.out_proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class _MLP(nn.Module):
    def __init__(self, c: EyesConfig) -> None:
        super().__init__()
        self.fc1 = nn.Linear(c.hidden, c.mlp)
        self.fc2 = nn.Linear(c.mlp, c.hidden)

    def forward(self, x: Tensor) -> Tensor:
        # mlx-vlm's MLP takes the tanh form of GELU ("precise").
        return self.fc2(F.gelu(self.fc1(x), approximate="tanh"))


class Block(nn.Module):
    """One transformer block, normalised before."""

    def __init__(self, c: EyesConfig) -> None:
        super().__init__()
        self.layer_norm1 = nn.LayerNorm(c.hidden, eps=1e-6)
        self.self_attn = _Attention(c)
        self.layer_norm2 = nn.LayerNorm(c.hidden, eps=1e-6)
        self.mlp = _MLP(c)

    def forward(self, x: Tensor) -> Tensor:
        """x: [B, patches, hidden]."""
        x = x + self.self_attn(self.layer_norm1(x))
        return x + self.mlp(self.layer_norm2(x))


class _Embeddings(nn.Module):
    def __init__(self, c: EyesConfig) -> None:
        super().__init__()
        self.patch_embedding = nn.Conv2d(3, c.hidden, c.patch, c.patch)
        self.position_embedding = nn.Embedding(c.patches**2, c.hidden)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.patch_embedding(pixels).flatten(2).transpose(1, 2) + self.position_embedding.weight


class _Tower(nn.Module):
    def __init__(self, c: EyesConfig) -> None:
        super().__init__()
        self.embeddings = _Embeddings(c)
        self.encoder = nn.ModuleDict({"layers": nn.ModuleList(Block(c) for _ in range(c.layers))})
        self.post_layernorm = nn.LayerNorm(c.hidden, eps=1e-5)

    def forward(self, pixels: Tensor, middle: int) -> tuple[Tensor, Tensor]:
        """(the last block's patches, normalised; those after ``middle`` blocks)."""
        x = self.embeddings(pixels)
        between = x
        for i, block in enumerate(self.encoder["layers"], 1):
            x = block(x)
            if i == middle:
                between = x
        return self.post_layernorm(x), between


class Eyes(nn.Module):
    """Pixels [B, 3, side, side] in -1 … 1 to image tokens [B, 36, 576], and the helper heads' logits."""

    def __init__(self, c: EyesConfig) -> None:
        super().__init__()
        self.c = c
        self.vision_model = _Tower(c)
        self.connector = nn.ModuleDict(
            {
                "modality_projection": nn.ModuleDict(
                    {"proj": nn.Linear(c.hidden * c.scale**2, c.text_hidden, bias=False)}
                )
            }
        )
        # Helper heads: dropped after training.
        self.norm = nn.LayerNorm(c.hidden)
        self.helpers = nn.ModuleDict(
            {
                "kind": nn.Linear(c.hidden, feed.CLASSES),
                "colour": nn.Linear(c.hidden, len(COLOUR_NAMES)),
                "index": nn.Linear(c.hidden, slots.LETTERS),
                "centre": nn.Linear(c.hidden, 1),
                "offset": nn.Linear(c.hidden, 2),
            }
        )
        for name, p in self.named_parameters():
            if p.ndim > 1:
                nn.init.trunc_normal_(p, std=0.02)
            elif name.endswith("bias"):
                nn.init.zeros_(p)
        # Patches are small: 192 numbers become 384.
        nn.init.normal_(self.vision_model.embeddings.patch_embedding.weight, std=0.06)
        # Image tokens start at the size of word embeddings (root mean square 0.11).
        nn.init.normal_(self.connector["modality_projection"]["proj"].weight, std=0.11 / (c.hidden * c.scale**2) ** 0.5)

    def shuffle(self, x: Tensor) -> Tensor:
        """Patches [B, patches², hidden] to tokens of scale × scale patches each."""
        b, (n, s) = x.shape[0], (self.c.patches, self.c.scale)
        x = x.reshape(b, n // s, s, n // s, s, -1)
        return x.permute(0, 1, 3, 2, 4, 5).reshape(b, (n // s) ** 2, -1)

    def forward(self, pixels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """(image tokens, helper logits of every patch)."""
        x, between = self.vision_model(pixels, self.c.middle)
        tokens = self.connector["modality_projection"]["proj"](self.shuffle(x))
        between = self.norm(between)
        return tokens, {name: head(between) for name, head in self.helpers.items()}


class Codes(nn.Module):
    """What the frozen language model best reads for every value of every slot: words' embeddings to begin with."""

    def __init__(self, form: tuple[slots.Slot, ...], embed: Tensor, encode: Callable[[str], list[int]]) -> None:
        super().__init__()
        base, starts, sizes = [], [], []
        for slot in form:
            starts.append(len(base))
            sizes.append(len(slot.words))
            base += [self._base(slot.name, words, embed, encode) for words in slot.words]
        self.sizes = sizes
        self.register_buffer("starts", torch.tensor(starts, device=embed.device))
        self.register_buffer("base", torch.stack(base))
        self.change = nn.Parameter(torch.zeros_like(self.base))
        self.bias = nn.Parameter(torch.zeros(len(form), embed.shape[1], device=embed.device))
        with torch.no_grad():
            for i, slot in enumerate(form):
                if slot.name == "free":
                    self.bias[i].normal_(0, 0.05)

    @staticmethod
    def _base(name: str, words: tuple[str, ...], embed: Tensor, encode: Callable[[str], list[int]]) -> Tensor:
        if not words:
            return torch.zeros(embed.shape[1], device=embed.device)
        if name.startswith("letter."):
            return embed[encode(words[0] if name != "letter.0" else f" {words[0]}")[-1]].float()
        parts = []
        part = {"first": 0, "second": 1, "third": 2}.get(name.partition(".")[2], -1)
        for word in words:
            ids = encode(f" {word}")
            if name[:2] in ("a.", "b.") and part >= 0 and word not in _PLAIN:
                ids = ids[part : part + 1] if part < 2 else ids[2:]
            parts += [embed[i].float() for i in ids]
        return torch.stack(parts).sum(0) / max(1, len(parts)) ** 0.5 if parts else torch.zeros_like(embed[0]).float()

    def of(self, slot: int) -> Tensor:
        """The codes of a slot [values, 576]."""
        at = int(self.starts_list[slot])
        return self.base[at : at + self.sizes[slot]] + self.change[at : at + self.sizes[slot]] + self.bias[slot]

    @property
    def starts_list(self) -> list[int]:
        """Where each slot's codes begin."""
        out, at = [], 0
        for size in self.sizes:
            out.append(at)
            at += size
        return out

    def forward(self, form: Tensor) -> Tensor:
        """Values [B, slots] (-1 read as 0) to image tokens [B, slots, 576]."""
        at = form.long().clamp(min=0) + self.starts
        return F.embedding(at, self.base) + F.embedding(at, self.change) + self.bias


_PLAIN = frozenset([*COLOUR_NAMES, *SHAPES])


def rope(length: int, dim: int, base: float, device: torch.device) -> tuple[Tensor, Tensor]:
    """Cosines and sines [length, dim] of llama's rotary embedding."""
    inv = 1.0 / base ** (torch.arange(0, dim, 2, device=device).float() / dim)
    angles = torch.outer(torch.arange(length, device=device).float(), inv)
    return torch.cat([angles, angles], -1).cos(), torch.cat([angles, angles], -1).sin()


def _turn(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    half = x.shape[-1] // 2
    return x * cos + torch.cat([-x[..., half:], x[..., :half]], -1) * sin


class LMLayer(nn.Module):
    """A layer of the frozen llama (9 heads, 3 key-value heads)."""

    def __init__(self, w: dict[str, Tensor]) -> None:
        super().__init__()
        for name, value in w.items():
            self.register_buffer(name.replace(".", "_"), value)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """x: [B, L, 576]."""
        h = F.rms_norm(x, (x.shape[-1],), self.input_layernorm, 1e-5)
        q = F.linear(h, self.self_attn_q_proj).unflatten(-1, (9, 64)).transpose(1, 2)
        k = F.linear(h, self.self_attn_k_proj).unflatten(-1, (3, 64)).transpose(1, 2)
        v = F.linear(h, self.self_attn_v_proj).unflatten(-1, (3, 64)).transpose(1, 2)
        q, k = _turn(q, cos, sin), _turn(k, cos, sin)
        k, v = k.repeat_interleave(3, 1), v.repeat_interleave(3, 1)
        a = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2)
        x = x + F.linear(a, self.self_attn_o_proj)
        h = F.rms_norm(x, (x.shape[-1],), self.post_attention_layernorm, 1e-5)
        h = F.silu(F.linear(h, self.mlp_gate_proj)) * F.linear(h, self.mlp_up_proj)
        return x + F.linear(h, self.mlp_down_proj)


class FrozenLM(nn.Module):
    """SmolLM2-135M from the packed files of ``prepare``; layers that weren't carried are left out."""

    def __init__(self, files: list[Path], device: torch.device, dtype: torch.dtype) -> None:
        super().__init__()
        from safetensors.torch import load_file

        raw: dict[str, Tensor] = {}
        for file in files:
            raw.update(load_file(file))
        weights = {
            base: _plain(raw, base).to(device, dtype) for base in sorted({name.rpartition(".")[0] for name in raw})
        }
        self.embed = weights["model.embed_tokens"]
        self.norm = weights.get("model.norm", torch.ones(self.embed.shape[1], device=device, dtype=dtype))
        layers = sorted({int(b.split(".")[2]) for b in weights if ".layers." in b})
        self.layers = nn.ModuleList(
            LMLayer({b.split(".", 3)[3]: w for b, w in weights.items() if b.startswith(f"model.layers.{i}.")})
            for i in layers
        )
        cos, sin = rope(256, 64, 100000.0, device)
        self.cos, self.sin = cos.to(dtype), sin.to(dtype)

    def hidden(self, x: Tensor) -> Tensor:
        """Embeddings [B, L, 576] to the last, normalised, hidden states."""
        cos, sin = self.cos[: x.shape[1]], self.sin[: x.shape[1]]
        for layer in self.layers:
            x = layer(x, cos, sin)
        return F.rms_norm(x, (x.shape[-1],), self.norm, 1e-5)


def _plain(raw: dict[str, Tensor], base: str) -> Tensor:
    """A tensor unpacked: MLX's groups of 32, lowest bits first."""
    packed = raw[f"{base}.weight"]
    if f"{base}.scales" not in raw:
        return packed.float()
    scales, biases = raw[f"{base}.scales"].float(), raw[f"{base}.biases"].float()
    bits = packed.shape[-1] * 32 // (scales.shape[-1] * 32)
    wide = packed.view(torch.int32).to(torch.int64) & 0xFFFFFFFF
    shifts = torch.arange(0, 32, bits)
    q = ((wide[..., None] >> shifts) & ((1 << bits) - 1)).flatten(-2).float()
    q = q.unflatten(-1, (-1, 32))
    return (q * scales[..., None] + biases[..., None]).flatten(-2)
