"""What is fixed for ever about a modality: its key, its vocabulary, its geometry, its provenance.

A `ModalitySpec` is data. It never imports the tokenizer it names, so reading the specs of fifty plugins costs
milliseconds and needs neither torch nor astropy.
"""

from __future__ import annotations

import hashlib
import json
import re
from math import prod
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

KEY_PATTERN = r"^[a-z][a-z0-9_]*$"
IMPORT_PATTERN = r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$"
#: UCD1+ words joined by semicolons, e.g. ``phot.flux;em.opt.R`` (IVOA recommendation UCD1+ 1.5).
UCD_PATTERN = r"^[a-z]+(\.[A-Za-z0-9-]+)*(;[a-z]+(\.[A-Za-z0-9-]+)*)*$"

Kind = Literal["image", "spectrum", "coefficients", "scalar", "scalar_field", "source_list", "other"]
Position = Literal["grid2d", "seq1d", "scalar"]
Order = Literal["masked", "causal"]


class Frozen(BaseModel):
    """A frozen record that refuses unknown fields: a misspelt one is an error, not a silent default."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def provenance_id(uri: str) -> int:
    """Return the 63-bit provenance ID of a URI: the first 63 bits of its SHA-256, never zero.

    A plugin writes the resulting number into its source, so that it stays the same for ever; this helper is
    how the number is found once. With 63 bits, 10 000 modalities collide with probability 5e-12
    (the release's 15-bit hashes: 2.4 % at 40 modalities).

    >>> provenance_id("https://example.org/survey/dr1/image")
    7423867943782080336
    """
    return (int.from_bytes(hashlib.sha256(uri.encode()).digest()[:8], "big") >> 1) or 1


class Provenance(Frozen):
    """Where a measurement comes from; the ID keys the modality's provenance embedding."""

    id: int = Field(ge=1, lt=2**63, description="stable for ever, explicit in the plugin; see `provenance_id`")
    instrument: str = Field(min_length=1, description="instrument and telescope")
    release: str = Field(min_length=1, description="data release or releases that the modality is defined on")
    doi: str | None = Field(default=None, pattern=r"^10\.\d{4,9}/\S+$")


class Weights(Frozen):
    """Default weights of a tokenizer: a release root on the Hub, and what its file must hash to."""

    repo: str
    revision: str | None = None
    subfolder: str | None = None
    sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")


class Band(Frozen):
    """One image band as the plugin declares it; `upstream_channel` is its channel in the AION-1 release."""

    name: str
    limit: float = Field(gt=0, description="flux is clamped to ± this, in the survey's own units")
    zero_point: float = Field(description="AB magnitude of one flux unit")
    pixel_scale: float = Field(gt=0, description="arcsec per pixel")
    upstream_channel: int | None = Field(default=None, ge=0)


class TokenizerSpec(Frozen):
    """Which class tokenizes the modality, and with which settings before any weights are loaded."""

    path: str = Field(pattern=IMPORT_PATTERN, description="import string, `package.module:Class`")
    config: dict[str, Any] = Field(default_factory=dict, description="keyword arguments of the class, as in JSON")
    bands: tuple[Band, ...] = ()
    range: tuple[float, float] | None = None
    weights: Weights | None = None

    @field_validator("config")
    @classmethod
    def _json(cls, config: dict[str, Any]) -> dict[str, Any]:
        # The spec is written into every manifest; what JSON would change there is refused here.
        try:
            same = json.loads(json.dumps(config, allow_nan=False)) == config
        except (TypeError, ValueError):
            same = False
        if not same:
            raise ValueError("config must survive JSON: finite numbers, strings, lists, dicts with string keys")
        return config


class ModalitySpec(Frozen):
    """Everything about a modality that may never change; a new meaning is a new key.

    Examples
    --------
    >>> spec = ModalitySpec(
    ...     key="demo_flux_r", survey="Demo Survey", title="r-band flux", citation="Doe et al. 2026", kind="scalar",
    ...     quantity="phot.flux;em.opt.R", units="nanomaggy", vocab_size=1024, shape=(1,), position="scalar",
    ...     provenance=Provenance(id=provenance_id("https://example.org/demo/r"), instrument="cam", release="DR1"))
    >>> spec.n_tokens
    1
    """

    key: str = Field(pattern=KEY_PATTERN, description="begins with the plugin's name; the one name everywhere")
    upstream_key: str | None = Field(default=None, description="the same thing in the AION-1 release")
    upstream_codec: str | None = Field(default=None, description="folder under `codecs/` in the AION-1 release")
    survey: str = Field(min_length=1)
    title: str = Field(min_length=1)
    citation: str = Field(min_length=1)
    kind: Kind
    quantity: str = Field(pattern=UCD_PATTERN, description="IVOA UCD1+ words")
    units: str = Field(description="astropy unit string; empty if dimensionless")
    vocab_size: int = Field(ge=2, lt=2**31, description="codes are 0 … vocab_size - 1")
    shape: tuple[int, ...] = Field(min_length=1, max_length=2, description="token grid, or a maximum length")
    position: Position
    order: Order = "masked"
    item_tokens: int = Field(default=1, ge=1, description="tokens of one item of a causal sequence (hidden together)")
    provenance: Provenance
    tokenizer: TokenizerSpec | None = Field(default=None, description="None: stored tokens only")
    observation: str | None = Field(default=None, pattern=IMPORT_PATTERN, description="class, for kind 'other'")

    @property
    def n_tokens(self) -> int:
        """Tokens of one object: exact for grids, the maximum for sequences."""
        return prod(self.shape)

    @field_validator("shape")
    @classmethod
    def _positive(cls, shape: tuple[int, ...]) -> tuple[int, ...]:
        if any(n < 1 for n in shape):
            raise ValueError(f"shape {shape} has an axis below 1")
        return shape

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.position == "scalar" and self.shape != (1,):
            raise ValueError(f"{self.key}: position 'scalar' has shape (1,), not {self.shape}")
        if self.position == "seq1d" and len(self.shape) != 1:
            raise ValueError(f"{self.key}: position 'seq1d' has one axis, not {self.shape}")
        if self.order == "causal" and self.position != "seq1d":
            raise ValueError(f"{self.key}: order 'causal' needs position 'seq1d', not {self.position!r}")
        if self.order == "causal" and self.vocab_size <= SEQUENCE_IDS.first_code:
            raise ValueError(f"{self.key}: a causal vocabulary begins with {SEQUENCE_IDS.first_code} reserved ids")
        if self.n_tokens % self.item_tokens or (self.item_tokens > 1 and self.order != "causal"):
            raise ValueError(f"{self.key}: item_tokens {self.item_tokens} needs a causal shape that it divides")
        if (self.kind == "other") != (self.observation is not None):
            raise ValueError(f"{self.key}: kind 'other' names its observation class, and only kind 'other' does")
        return self


class SequenceIds(Frozen):
    """Reserved ids at the start of every causal vocabulary (REFERENCE: pad 0, unk, start, end, 200 sentinels)."""

    pad: int = 0
    unk: int = 1
    start: int = 2
    end: int = 3
    first_sentinel: int = 4
    n_sentinels: int = 200

    @property
    def first_code(self) -> int:
        """The first id that a tokenizer may emit."""
        return self.first_sentinel + self.n_sentinels


SEQUENCE_IDS = SequenceIds()


def is_key(name: str) -> bool:
    """Whether a name may serve as a modality key."""
    return re.fullmatch(KEY_PATTERN, name) is not None
