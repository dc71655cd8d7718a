"""The transformer's steps, each left out or altered: the comparison with the release must notice.

Most are changes of a copy's weights, modules or buffers; the others wrap its two halves. A mutation that raises has
not been noticed: it is out of date.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformer_cases import CASES, Case

from aion_core.model import AionModel, layers

BY_NAME = {case.name: case for case in CASES}
PLAIN, TURNED = BY_NAME["released"], BY_NAME["all switches turned"]
APART, CAUSAL = BY_NAME["embeddings apart"], BY_NAME["causal decoder"]
BIASED = BY_NAME["all biases"]
REGISTERS, OPEN = BY_NAME["3 registers"], BY_NAME["targets see other modalities"]


@dataclass(frozen=True)
class Mutation:
    """A step of ours, and a context in which a copy of the model takes it wrongly."""

    step: str
    case: Case
    apply: Callable[[AionModel], AbstractContextManager[Any]]

    @property
    def name(self) -> str:
        return f"{self.case.name} | {self.step}"


def edit(change: Callable[[Any], Any]) -> Callable[[AionModel], AbstractContextManager[None]]:
    """Make a change of the copy into a context."""

    @contextmanager
    def apply(model: AionModel) -> Iterator[None]:
        with torch.no_grad():
            change(model)
        yield

    return apply


def every(kind: type[nn.Module], change: Callable[[Any], Any]) -> Callable[[AionModel], AbstractContextManager[None]]:
    """Make the change to all modules of a kind."""
    return edit(lambda model: [change(m) for m in model.modules() if isinstance(m, kind)])


def zero(*endings: str) -> Callable[[AionModel], AbstractContextManager[None]]:
    """Set all parameters and buffers with such names to zero; there must be one."""

    def change(model: AionModel) -> None:
        found = [t for n, t in (*model.named_parameters(), *model.named_buffers()) if n.endswith(endings)]
        assert found, endings
        for tensor in found:
            tensor.zero_()

    return edit(change)


def without(path: str) -> Callable[[AionModel], AbstractContextManager[None]]:
    """Replace the modules of a name by nothing: in the first block of a list, ``encoder.*.norm1``."""

    def change(model: AionModel) -> None:
        parent, _, name = path.rpartition(".")
        for owner in model.get_submodule(parent.removesuffix(".*")).children() if "*" in parent else [model]:
            assert isinstance(getattr(owner, name), nn.Module)
            setattr(owner, name, nn.Identity())

    return edit(change)


def swap(a: Any, b: Any, name: str = "weight") -> None:
    """Exchange the values of two tensors."""
    x, y = getattr(a, name), getattr(b, name)
    kept = x.clone()
    x.copy_(y)
    y.copy_(kept)


def rows(count: int, *order: int) -> Callable[[Any], None]:
    """Reorder the stacked matrices of a projection."""

    def change(linear: nn.Linear) -> None:
        parts = linear.weight.chunk(count)
        linear.weight.copy_(torch.cat([parts[i] for i in order]))

    return change


def interleaved(attention: Any) -> None:
    weight = attention.qkv.weight.unflatten(0, (3, attention.heads, -1))
    attention.qkv.weight.copy_(weight.transpose(1, 2).flatten(0, 2))


def halves(
    encode: Callable[..., Any] | None = None, decode: Callable[..., Any] | None = None
) -> Callable[[AionModel], AbstractContextManager[None]]:
    """Wrap the encoder's or the decoder's half: ``f(model, original, batch, …)``."""

    @contextmanager
    def apply(model: AionModel) -> Iterator[None]:
        for name, wrapped in (("encode", encode), ("decode", decode)):
            if wrapped is not None:
                setattr(model, name, partial(wrapped, model, getattr(model, name)))
        yield

    return apply


def context_less(what: str) -> Callable[..., Any]:
    """Take positions or modalities out of what the decoder attends to."""

    def encode(model: Any, original: Any, batch: Any) -> Any:
        context, mask = original(batch)
        slot = batch.input_slot.clamp(min=0)
        own = [model.encoder_embeddings[key].mod_emb[0] for key in model.space.keys]
        part = F.embedding(slot, torch.cat(own)) if what == "modality" else model.positions(slot, batch.input_position)
        return context - part * (batch.input_slot >= 0)[..., None], mask

    return encode


def zeroed_during(ending: str) -> Callable[..., Any]:
    """Run one half with some tensors at zero."""

    def half(model: Any, original: Any, *args: Any, **kwargs: Any) -> Any:
        tensors = [t for n, t in (*model.named_parameters(), *model.named_buffers()) if n.endswith(ending)]
        kept = [t.clone() for t in tensors]
        with torch.no_grad():
            for tensor in tensors:
                tensor.zero_()
            result = original(*args, **kwargs)
            for tensor, value in zip(tensors, kept, strict=True):
                tensor.copy_(value)
        return result

    return half


def no_registers_in_context(model: Any, original: Any, batch: Any, context: Tensor, mask: Any, **kwargs: Any) -> Any:
    count = model.config.num_register_tokens
    return original(batch, context[:, count:], None if mask is None else mask[..., count:], **kwargs)


def attention(**changes: Any) -> Callable[[AionModel], AbstractContextManager[Any]]:
    """Alter the arguments of every attention."""
    original = F.scaled_dot_product_attention
    return lambda _: mock.patch.object(
        F, "scaled_dot_product_attention", lambda q, k, v, **given: original(q, k, v, **{**given, **changes})
    )


def targets(mask: Callable[[Any, Any], Any]) -> Callable[[AionModel], AbstractContextManager[None]]:
    return edit(lambda model: setattr(model, "_target_mask", partial(mask, model)))


def all_open(_: Any, batch: Any) -> Tensor:
    here = batch.target_slot >= 0
    return (here[:, None, :] | ~here[:, :, None])[:, None]


def all_alike(_: Any, batch: Any) -> Tensor:
    return torch.full((1, 1, *batch.target_slot.shape[1:] * 2), -1e30)


def grid_transposed(model: Any) -> None:
    slot = model.space.index("tok_segmap")
    first, table = int(model.positions.first_row[slot]), model.positions.table
    table[first : first + 144] = table[first : first + 144].unflatten(0, (12, 12)).transpose(0, 1).flatten(0, 1).clone()


def sines_first(model: Any) -> None:
    table = model.positions.table
    table.copy_(table.unflatten(1, (4, -1)).flip(1).flatten(1))


def switched(**switches: Any) -> Callable[[AionModel], AbstractContextManager[None]]:
    return edit(lambda model: setattr(model, "config", model.config.model_copy(update=switches)))


def norm_of(change: Callable[[Any, Tensor], Tensor]) -> Callable[[AionModel], AbstractContextManager[Any]]:
    return lambda _: mock.patch.object(layers.LayerNorm, "forward", change)


def act(function: Callable[[Tensor], Tensor]) -> Callable[[AionModel], AbstractContextManager[None]]:
    return every(layers.Mlp, lambda mlp: setattr(mlp, "act", function))


def tied(model: Any) -> None:
    for key in model.decoder_embeddings:
        model.decoder_embeddings[key].to_logits.weight.copy_(model.encoder_embeddings[key].token_emb.weight)


def own_are_shared(model: Any) -> None:
    for key in model.inputs & model.outputs:
        model.decoder_embeddings[key].mod_emb.copy_(model.encoder_embeddings[key].mod_emb)


def reversed_blocks(model: Any) -> None:
    model.encoder = nn.ModuleList(reversed(list(model.encoder)))


STEPS: dict[Case, dict[str, Callable[[AionModel], AbstractContextManager[Any]]]] = {
    PLAIN: {
        "encoder: last block left out": edit(lambda m: m.encoder.__delitem__(-1)),
        "decoder: last block left out": edit(lambda m: m.decoder.__delitem__(-1)),
        "encoder: blocks in reverse": edit(reversed_blocks),
        "self-attention: queries and keys swapped": every(layers.Attention, lambda a: rows(3, 1, 0, 2)(a.qkv)),
        "self-attention: keys and values swapped": every(layers.Attention, lambda a: rows(3, 0, 2, 1)(a.qkv)),
        "cross-attention: keys and values swapped": every(layers.CrossAttention, lambda a: rows(2, 1, 0)(a.kv)),
        "self-attention: heads interleaved": every(layers.Attention, interleaved),
        "attention: scores not scaled": attention(scale=1.0),
        "attention: nothing masked": attention(attn_mask=None),
        "QK-norm: none in self-attention": every(layers.Attention, lambda a: [
            setattr(a, n, nn.Identity()) for n in ("q_norm", "k_norm")]),
        "QK-norm: none in cross-attention": every(layers.CrossAttention, lambda a: [
            setattr(a, n, nn.Identity()) for n in ("q_norm", "k_norm")]),
        "norm: epsilon 1e-5": lambda _: mock.patch.object(layers, "NORM_EPS", 1e-5),
        "norm: mean not subtracted": norm_of(lambda n, x: F.rms_norm(x, n.weight.shape, n.weight, layers.NORM_EPS)),
        "encoder: no norm before attention": without("encoder.*.norm1"),
        "encoder: no norm before MLP": without("encoder.*.norm2"),
        "encoder: no final norm": without("encoder_norm"),
        "decoder: no norm before attention": without("decoder.*.norm1"),
        "decoder: no norm of cross-attention's queries": without("decoder.*.query_norm"),
        "decoder: no norm of the context": without("decoder.*.context_norm"),
        "decoder: no norm before MLP": without("decoder.*.norm2"),
        "decoder: no final norm": without("decoder_norm"),
        "MLP: GELU for SiLU": act(F.gelu),
        "MLP: no gate": every(layers.Mlp, lambda mlp: setattr(mlp, "fc3", None)),
        "MLP: gate and value swapped": every(layers.Mlp, lambda mlp: swap(mlp.fc1, mlp.fc3)),
        "context: no projection": edit(lambda m: nn.init.eye_(m.decoder_proj_context.weight)),
        "context: no bias of the projection": zero("decoder_proj_context.bias"),
        "context: no positions": halves(encode=context_less("positions")),
        "context: no modality embedding": halves(encode=context_less("modality")),
        "positions: none in the encoder": halves(encode=zeroed_during("positions.table")),
        "positions: none in the decoder": halves(decode=zeroed_during("positions.table")),
        "positions: grid transposed": edit(grid_transposed),
        "positions: second half first": edit(lambda m: m.positions.table.copy_(m.positions.table.roll(32, 1))),
        "positions: cosines for sines": edit(sines_first),
        "positions: one place on": edit(lambda m: m.positions.table.copy_(m.positions.table.roll(1, 0))),
        "modality embedding: none in the encoder": halves(encode=zeroed_during("mod_emb")),
        "modality embedding: none in the decoder": halves(decode=zeroed_during("mod_emb")),
        "modality embedding: two swapped": edit(lambda m: swap(
            *[m.encoder_embeddings[m.space[k].key] for k in ("tok_mag_g", "tok_z")], "mod_emb")),
        "tokens: one row on": edit(lambda m: m.slot_offset[1:].sub_(1)),
        "targets: no mask token": zero("mask_token"),
        "targets: the sequence sees no earlier tokens": edit(lambda m: m.causal_row.sub_(1)),
        "targets: the sequence sees later ones": edit(lambda m: m.is_causal.zero_()),
        "targets: modalities see each other": targets(all_open),
        "targets: mean for open attention": targets(all_alike),
        "targets: open attention for mean": halves(decode=lambda _, original, *args, **__: original(*args)),
        "heads: tied to the embeddings": edit(tied),
    },
    APART: {"modality embedding: the encoder's in the decoder": edit(own_are_shared)},
    REGISTERS: {
        "registers: zero": zero("register_tokens"),
        "registers: not in the context": halves(decode=no_registers_in_context),
    },
    OPEN: {"targets: modalities apart": switched(decoder_sep_mask=True)},
    CAUSAL: {"targets: later ones seen": switched(decoder_causal_mask=False)},
    BIASED: {"QK-norm: of queries and keys swapped": every(layers.Attention, lambda a: [
        swap(a.q_norm, a.k_norm), swap(a.q_norm, a.k_norm, "bias")])},
    TURNED: {
        "biases: none of queries, keys, values": zero("qkv.bias", "kv.bias", "cross_attn.q.bias"),
        "biases: none of attention's projection": zero("attn.proj.bias"),
        "biases: none of the MLP's first layer": zero("fc1.bias"),
        "biases: none of the MLP's second layer": zero("fc2.bias"),
        "biases: none of norms": every(layers.LayerNorm, lambda norm: norm.bias.zero_()),
        "MLP: GELU by tanh": act(partial(F.gelu, approximate="tanh")),
        "MLP: SiLU for GELU": act(F.silu),
    },
}  # fmt: skip
MUTATIONS = [Mutation(step, case, apply) for case, steps in STEPS.items() for step, apply in steps.items()]
