"""The transformer's shape. Field names are those of the AION-1 release's ``config.json``."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator


class AionConfig(BaseModel):
    """Encoder–decoder transformer (paper, appendix A, table 5); defaults are AION-1-B's.

    Examples
    --------
    >>> AionConfig(**PRESETS["aion-l"]).dim
    1024
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    dim: int = Field(default=768, ge=4, description="width; a multiple of 4 and of num_heads")
    encoder_depth: int = Field(default=12, ge=1)
    decoder_depth: int = Field(default=12, ge=1)
    num_heads: int = Field(default=12, ge=1)
    mlp_ratio: float = Field(default=4.0, gt=0)
    act_layer: Literal["SiLU", "GELU", "ReLU"] = "SiLU"
    gated_mlp: bool = True
    qk_norm: bool = True
    qkv_bias: bool = False
    proj_bias: bool = False
    mlp_bias: bool = False
    norm_bias: bool = False
    share_modality_embeddings: bool = Field(default=True, description="encoder and decoder: one embedding a modality")
    num_register_tokens: int = Field(default=0, ge=0, description="learned places in front of the encoder's input")
    decoder_sep_mask: bool = Field(default=True, description="targets see targets of their own modality only")
    decoder_causal_mask: bool = Field(default=False, description="targets see no later target")

    @model_validator(mode="after")
    def _divisible(self) -> Self:
        if self.dim % 4 or self.dim % self.num_heads:
            raise ValueError(f"dim {self.dim} must be a multiple of 4 and of num_heads {self.num_heads}")
        return self

    @property
    def mlp_hidden(self) -> int:
        """Hidden width; a gated layer has three matrices instead of two, hence 2/3 of the width."""
        hidden = int(self.dim * self.mlp_ratio)
        return int(2 * hidden / 3) if self.gated_mlp else hidden


#: Sizes of the paper's table 5.
PRESETS: dict[str, dict[str, int]] = {
    "aion-b": {"dim": 768, "encoder_depth": 12, "decoder_depth": 12, "num_heads": 12},
    "aion-l": {"dim": 1024, "encoder_depth": 24, "decoder_depth": 24, "num_heads": 16},
    "aion-xl": {"dim": 2048, "encoder_depth": 24, "decoder_depth": 24, "num_heads": 32},
}
