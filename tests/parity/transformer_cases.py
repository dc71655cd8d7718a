"""The transformer beside the released package's: one network on both sides, and what each makes of the same tokens.

The release's model gets random weights, is saved its own way, and is loaded here; so reading the layout is part of
every comparison. Norms, biases, embeddings and registers are random too (a network at its initial values hides
faults), and the queries of one head are small, so that the epsilon of their norm matters.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field
from functools import lru_cache
from io import StringIO
from typing import Any
from unittest import mock

import torch
from aion.fourm import fm
from aion.model import AION
from torch import Tensor, nn

from aion_core.data.batches import batch_of_tokens
from aion_core.model import AionModel

#: Tokens and vocabulary of the modalities in use, by upstream key.
SIZES = {
    "tok_segmap": (144, 1000), "tok_xp_bp": (55, 1024), "tok_mag_g": (1, 1024), "tok_z": (1, 1025),
    "tok_ebv": (1, 1024), "catalog": (50, 3468),
}  # fmt: skip
RELEASED: dict[str, Any] = {
    "act_layer": "SiLU", "gated_mlp": True, "mlp_bias": False, "mlp_ratio": 4, "norm_bias": False, "proj_bias": False,
    "qk_norm": True, "qkv_bias": False, "encoder_depth": 2, "decoder_depth": 2, "dim": 64, "num_heads": 4,
    "domains_in": ["tok_segmap", "tok_xp_bp", "tok_mag_g", "catalog", "tok_z"],
    "domains_out": ["tok_segmap", "tok_xp_bp", "tok_mag_g", "catalog", "tok_z"],
}  # fmt: skip
BIASES = {"qkv_bias": True, "proj_bias": True, "mlp_bias": True, "norm_bias": True}
SEPARATE = {"share_modality_embeddings": False}
APART = {
    "domains_in": ["catalog", "tok_xp_bp", "tok_mag_g", "tok_ebv"],
    "domains_out": ["tok_z", "tok_segmap", "tok_xp_bp"],
}


@dataclass(frozen=True)
class Case:
    """A configuration of the network; `slow` ones are left to ``make test-all``."""

    name: str
    switches: dict[str, Any] = field(hash=False)
    slow: bool = False


def width(dim: int, heads: int, blocks: int) -> dict[str, Any]:
    """One of the released widths, with few tokens."""
    few = [name for name in RELEASED["domains_in"] if name != "tok_segmap"]
    sizes = {"dim": dim, "num_heads": heads, "encoder_depth": blocks, "decoder_depth": blocks}
    return {**sizes, "domains_in": few, "domains_out": few}


CASES = (
    Case("released", {}),
    Case("width 768 (B)", width(768, 12, 1)),
    Case("width 1024 (L)", width(1024, 16, 1)),
    Case("width 2048 (XL)", width(2048, 32, 1), slow=True),
    Case("B, all 12+12 blocks", width(768, 12, 12), slow=True),
    Case("no QK-norm", {"qk_norm": False}),
    Case("all biases", BIASES),
    Case("GELU, no gate, biases, no QK-norm", {**BIASES, "qk_norm": False, "gated_mlp": False, "act_layer": "GELU"}),
    Case("GELU with gate, MLP ratio 2.5", {"act_layer": "GELU", "mlp_ratio": 2.5}),
    Case("ReLU, no gate", {"act_layer": "ReLU", "gated_mlp": False}),
    Case("embeddings apart", SEPARATE),
    Case("3 registers", {"num_register_tokens": 3}),
    Case("targets see other modalities", {"decoder_sep_mask": False}),
    Case("causal decoder", {"decoder_causal_mask": True}),
    Case("causal decoder, targets see other modalities", {"decoder_causal_mask": True, "decoder_sep_mask": False}),
    Case("inputs and outputs differ", APART),
    Case("all switches turned", {
        **BIASES, **SEPARATE, **APART, "qk_norm": False, "gated_mlp": False, "act_layer": "GELU",
        "num_register_tokens": 2, "decoder_sep_mask": False,
    }),
)  # fmt: skip


@dataclass(frozen=True)
class Pair:
    """Both models with the same weights, and the domains in and out in slot order."""

    theirs: Any
    ours: AionModel
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    known: dict[Any, Any] = field(default_factory=dict)

    def once(self, view: str, make: Callable[[], Any]) -> Any:
        """Return what the release makes of a view's tokens, computed once for each number format."""
        key = view, torch.is_autocast_enabled("cpu")
        if key not in self.known:
            with torch.no_grad(), in_order():
                self.known[key] = make()
        return self.known[key]

    @property
    def registers(self) -> int:
        return self.ours.config.num_register_tokens


@lru_cache(maxsize=2)
def pair(case: Case) -> Pair:
    """Build the release's network with random weights, and ours from its files."""
    config = {**RELEASED, **case.switches}
    theirs = AION(config).eval()
    randomize(theirs, config["num_heads"])
    with tempfile.TemporaryDirectory() as folder, redirect_stdout(StringIO()):
        theirs.save_pretrained(folder)
        ours = AionModel.from_pretrained(folder)
    upstream = [str(spec.upstream_key) for spec in ours.space.specs()]
    inputs, outputs = (tuple(n for n in upstream if n in config[d]) for d in ("domains_in", "domains_out"))
    return Pair(theirs, ours, inputs, outputs)


@torch.no_grad()
def randomize(model: nn.Module, heads: int) -> None:
    """Give every parameter random values, of a size at which what they do shows."""
    generator = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if parameter.ndim == 2 and "token_emb" not in name:
            parameter.copy_(noise * parameter.shape[1] ** -0.5)
        elif "norm" in name and name.endswith("weight"):
            parameter.copy_(1 + 0.3 * noise)
        else:
            parameter.copy_(0.5 * noise)
        if name.endswith(("qkv.weight", "cross_attn.q.weight")):
            parameter[: parameter.shape[1] // heads] *= 2e-3


def random_tokens(names: tuple[str, ...], batch: int = 3, seed: int = 2) -> dict[str, Tensor]:
    """Tokens of B objects, −1 where missing: the second object lacks every second modality, its sequence is short."""
    generator = torch.Generator().manual_seed(seed)
    tokens = {}
    for i, name in enumerate(names):
        n, vocab = SIZES[name]
        first = 204 if name == "catalog" else 0
        tokens[name] = torch.randint(first, vocab, (batch, n), generator=generator)
        if name == "catalog":
            tokens[name][1, 15:] = -1
        elif i % 2:
            tokens[name][1] = -1
    return tokens


# -- what each side makes of tokens: one function a view, which returns pairs of equal tensors --------------------

View = Callable[[Pair, AionModel], list[tuple[Tensor, Tensor]]]


def embeddings(pair: Pair, ours: AionModel) -> list[tuple[Tensor, Tensor]]:
    """The encoding of all inputs; places that an object lacks, which the release puts last, are left out."""
    tokens = random_tokens(pair.inputs)
    found = ours.embed(tokens)
    expected = pair.once("embed", lambda: peer_context(pair, tokens))[:, pair.registers :]
    counts = found.valid.sum(dim=1).tolist()
    return [(found.values[i][found.valid[i]], expected[i, :n]) for i, n in enumerate(counts)]


def one_target(pair: Pair, ours: AionModel) -> list[tuple[Tensor, Tensor]]:
    """The logits of a single token, by the release's `forward`."""
    return forward(pair, ours, ["tok_z"], "open")


def several_as_released(pair: Pair, ours: AionModel) -> list[tuple[Tensor, Tensor]]:
    """The logits of several targets, by the release's `forward`: every target receives the mean of all."""
    return forward(pair, ours, [name for name in pair.outputs if name != "catalog"], "mean")


def several_in_training(pair: Pair, ours: AionModel) -> list[tuple[Tensor, Tensor]]:
    """The logits of several targets with the attention that both were trained with."""
    names = [name for name in pair.outputs if name != "catalog"]
    tokens = {k: v.clamp(min=204) for k, v in random_tokens(pair.inputs).items()}
    asked = {name: torch.zeros(3, SIZES[name][0], dtype=torch.bool) for name in names}
    logits = pair.once("training", lambda: peer_training(pair, tokens, asked, return_logits=True))
    found, pairs, start = ours.logits(tokens, names), [], 0
    for name in names:  # each of the release's heads is given all places
        end = start + SIZES[name][0]
        pairs.append((found[name], logits[name][:, start:end]))
        start = end
    return pairs


def training_loss(pair: Pair, ours: AionModel) -> list[tuple[Tensor, Tensor]]:
    """The loss by modality: some places are targets, and the sequence is teacher-forced, of different lengths."""
    names, generator = pair.outputs, torch.Generator().manual_seed(3)
    given = random_tokens(tuple(n for n in pair.inputs if n not in names) or pair.inputs[:1])
    truth = {name: random_tokens((name,), seed=4)[name].clamp(min=0) for name in names if name not in given}
    hidden = {name: torch.rand(codes.shape, generator=generator) < 0.4 for name, codes in truth.items()}
    hidden |= {name: torch.tensor([[False], [True], [False]]) for name in truth if SIZES[name][0] == 1}
    if "catalog" in truth:
        length = torch.tensor([50, 16, 1])
        hidden["catalog"] = torch.arange(50) >= length[:, None]
    _, losses = pair.once("loss", lambda: peer_training(pair, given, hidden, truth=truth))
    asked = {name: codes.masked_fill(hidden[name], -1) for name, codes in truth.items()}
    previous = {}
    if "catalog" in asked:
        asked["catalog"], previous["catalog"] = asked["catalog"][:, 1:], truth["catalog"][:, :-1]
    batch = batch_of_tokens(ours.space, given, asked, previous=previous)
    with torch.no_grad():
        sums = ours(batch)
    index = [ours.space.index(name) for name in truth]
    means = sums[index] / torch.tensor(batch.target_counts)[index]
    return [(means, torch.stack([losses[name].float() for name in truth]))]


VIEWS: dict[str, View] = {
    "embed": embeddings,
    "logits, one target": one_target,
    "logits, several targets": several_in_training,
    "logits, several, as released": several_as_released,
    "training loss": training_loss,
}


# -- the release's side --------------------------------------------------------------------------------------------


def peer_context(pair: Pair, tokens: dict[str, Tensor]) -> Tensor:
    mask = {name: codes < 0 for name, codes in tokens.items()}
    given = {name: codes.clamp(min=0) for name, codes in tokens.items()}
    context: Tensor = pair.theirs.encode(given, input_mask=mask, num_encoder_tokens=10_000)
    return context


def forward(pair: Pair, ours: AionModel, names: list[str], attention: Any) -> list[tuple[Tensor, Tensor]]:
    tokens = random_tokens(pair.inputs)
    mask = {name: codes < 0 for name, codes in tokens.items()}
    targets = [type("Target", (), {"token_key": n, "num_tokens": SIZES[n][0]}) for n in names]
    given = {name: codes.clamp(min=0) for name, codes in tokens.items()}
    expected = pair.once(str(names), lambda: pair.theirs(given, targets, input_mask=mask))
    found = ours.logits(tokens, names, target_attention=attention)
    return [(found[name], expected[name]) for name in names]


def peer_training(
    pair: Pair,
    tokens: dict[str, Tensor],
    hidden: dict[str, Tensor],
    truth: dict[str, Tensor] | None = None,
    return_logits: bool = False,
) -> Any:
    """Call what the release was trained with; `hidden` is True where a place is no target."""
    parts: dict[str, dict[str, Tensor]] = {}
    for name in dict.fromkeys((*pair.inputs, *pair.outputs)):
        if name not in tokens and name not in hidden:
            continue
        absent = torch.ones(3, SIZES[name][0], dtype=torch.bool)
        given, no_target = tokens.get(name, absent.long() * -1), hidden.get(name, absent)
        codes = given if truth is None or name not in truth else truth[name]
        parts[name] = {
            "tensor": codes.clamp(min=0),
            "input_mask": given < 0,
            "target_mask": no_target,
            "decoder_attention_mask": attention_counts(name, no_target),
        }
    total = sum(SIZES[name][0] for name in parts)
    return fm.FourM.forward(
        pair.theirs, parts, num_encoder_tokens=total, num_decoder_tokens=total, return_logits=return_logits
    )


def attention_counts(name: str, no_target: Tensor) -> Tensor:
    """How many more targets each sees, as the release counts: in a sequence one each, else all at the first."""
    if name == "catalog":
        return (~no_target).int()
    counts = torch.zeros_like(no_target, dtype=torch.int32)
    first = no_target.int().argmin(dim=1)
    counts[torch.arange(len(counts)), first] = (~no_target).sum(dim=1).int()
    return counts


@contextmanager
def in_order() -> Iterator[None]:
    """Keep the release from shuffling the modalities of its decoder with Python's own random numbers."""
    with mock.patch.object(fm.random, "sample", lambda items, _: list(items)):
        yield
