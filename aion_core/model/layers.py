"""Transformer blocks. Module names follow the release, so that its weights load without a table of names."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from aion_core.model.config import AionConfig
from aion_core.model.linear import Linear, linear_of, projected, rounded

NORM_EPS = 1e-6
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"SiLU": F.silu, "GELU": F.gelu, "ReLU": F.relu}


class LayerNorm(nn.Module):
    """Layer norm over the last axis, with or without a bias."""

    def __init__(self, dim: int, bias: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.bias = nn.Parameter(torch.zeros(dim)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        weight: Tensor = self.weight
        bias: Tensor | None = self.bias
        if weight.dtype != x.dtype and x.dtype == torch.float32:  # weights gathered in bf16 by sharded training
            weight, bias = weight.float(), None if bias is None else bias.float()
        return F.layer_norm(x, weight.shape, weight, bias, NORM_EPS)


class Attention(nn.Module):
    """Multi-head self-attention with optional normalisation of queries and keys (QK-norm)."""

    def __init__(self, config: AionConfig) -> None:
        super().__init__()
        self.heads = config.num_heads
        self.qkv = Linear(config.dim, 3 * config.dim, bias=config.qkv_bias)
        self.proj = Linear(config.dim, config.dim, bias=config.proj_bias)
        self.q_norm, self.k_norm = _qk_norms(config)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """``x [B, N, D]``; mask True = may attend, broadcast to ``[B, H, N, N]``, None = all. Returns ``[B, N, D]``."""
        return projected(self._made, (self.q_norm, self.k_norm), self.proj, mask, self.qkv(x))

    def _made(self, qkv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries, keys and values ``[B, N, H, d]``."""
        q, k, v = qkv.unflatten(-1, (3, self.heads, -1)).unbind(2)
        return self.q_norm(q), self.k_norm(k), v


class CrossAttention(nn.Module):
    """Multi-head attention of queries ``[B, M, D]`` to a context ``[B, N, D]``."""

    def __init__(self, config: AionConfig) -> None:
        super().__init__()
        self.heads = config.num_heads
        self.q = Linear(config.dim, config.dim, bias=config.qkv_bias)
        self.kv = Linear(config.dim, 2 * config.dim, bias=config.qkv_bias)
        self.proj = Linear(config.dim, config.dim, bias=config.proj_bias)
        self.q_norm, self.k_norm = _qk_norms(config)

    def forward(self, x: Tensor, context: Tensor, mask: Tensor | None) -> Tensor:
        """Mask True = may attend, broadcast to ``[B, H, M, N]``. Returns ``[B, M, D]``."""
        return projected(self._made, (self.q_norm, self.k_norm), self.proj, mask, self.q(x), self.kv(context))

    def _made(self, q: Tensor, kv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries ``[B, M, H, d]``, and keys and values ``[B, N, H, d]``."""
        k, v = kv.unflatten(-1, (2, self.heads, -1)).unbind(2)
        return self.q_norm(q.unflatten(-1, (self.heads, -1))), self.k_norm(k), v


class Mlp(nn.Module):
    """Feed-forward layer, gated (SwiGLU) or plain."""

    def __init__(self, config: AionConfig) -> None:
        super().__init__()
        hidden, bias = config.mlp_hidden, config.mlp_bias
        self.act = ACTIVATIONS[config.act_layer]
        self.fc1 = Linear(config.dim, hidden, bias=bias)
        self.fc2 = Linear(hidden, config.dim, bias=bias)
        self.fc3 = Linear(config.dim, hidden, bias=bias) if config.gated_mlp else None

    def forward(self, x: Tensor) -> Tensor:
        x = rounded(x)
        gate = self.fc1(x)
        inputs = [gate] if self.fc3 is None else [gate, self.fc3(x)]
        return linear_of(self._hidden, inputs, self.fc2.weight, self.fc2.bias)

    def _hidden(self, gate: Tensor, up: Tensor | None = None) -> Tensor:
        hidden = self.act(gate)
        return hidden if up is None else hidden * up


class Block(nn.Module):
    """Pre-norm encoder block."""

    def __init__(self, config: AionConfig) -> None:
        super().__init__()
        self.norm1 = LayerNorm(config.dim, config.norm_bias)
        self.attn = Attention(config)
        self.norm2 = LayerNorm(config.dim, config.norm_bias)
        self.mlp = Mlp(config)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        x = x + self.attn(self.norm1(x), mask)
        return x + self.mlp(self.norm2(x))


class DecoderBlock(nn.Module):
    """Pre-norm decoder block: self-attention, cross-attention to the context, feed-forward."""

    def __init__(self, config: AionConfig) -> None:
        super().__init__()
        self.norm1 = LayerNorm(config.dim, config.norm_bias)
        self.self_attn = Attention(config)
        self.query_norm = LayerNorm(config.dim, config.norm_bias)
        self.context_norm = LayerNorm(config.dim, config.norm_bias)
        self.cross_attn = CrossAttention(config)
        self.norm2 = LayerNorm(config.dim, config.norm_bias)
        self.mlp = Mlp(config)

    def forward(self, x: Tensor, context: Tensor, self_mask: Tensor | None, cross_mask: Tensor | None) -> Tensor:
        x = x + self.self_attn(self.norm1(x), self_mask)
        x = x + self.cross_attn(self.query_norm(x), self.context_norm(context), cross_mask)
        return x + self.mlp(self.norm2(x))


def _qk_norms(config: AionConfig) -> tuple[nn.Module, nn.Module]:
    if not config.qk_norm:
        return nn.Identity(), nn.Identity()
    head = config.dim // config.num_heads
    return LayerNorm(head, config.norm_bias), LayerNorm(head, config.norm_bias)
