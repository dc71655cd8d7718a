"""The same seed gives the same curve, whichever optimisation is on or off, and no step waits for the device."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode

from aion_core.data.batches import TokenBatch
from aion_core.model.layers import Attention, CrossAttention
from aion_core.model.linear import attended
from aion_core.train import TrainConfig, Trainer, parallel

#: Budgets that every object fills, so that masks are left out; two layers of a kind; as many steps as show a curve.
SETTINGS = (
    "optimizer.steps=6", "optimizer.warmup_steps=0", "evaluate.samples=64", "evaluate.conditional=[]",
    "masking.input_budget=2", "masking.target_budget=2", "model.encoder_depth=2", "model.decoder_depth=2",
    "model.dim=16", "checkpoint.every=1000",
)  # fmt: skip

Curve = list[list[float]]


@pytest.fixture
def make_trainer(make_store, make_config) -> Callable[..., Trainer]:
    make_store(n=200)
    names = iter(range(100))

    def make(*settings: str) -> Trainer:
        return Trainer(TrainConfig.from_toml(make_config(f"run{next(names)}"), (*SETTINGS, *settings)))

    return make


def curve(trainer: Trainer) -> Curve:
    """Train, and return loss and gradient norm of each step, and the held-out losses behind the last."""
    trainer.run()
    lines = [json.loads(line) for line in (trainer.folder / "metrics.jsonl").read_text().splitlines()]
    steps = [[line["loss"], line["grad_norm"]] for line in lines if line["kind"] == "train"]
    assert len(steps) == 6
    return [*steps, *([h["loss"]] for line in lines if line["kind"] == "evaluation" for h in line["held_out"])]


# -- what changes no bit: when things are done, where they lie, what is done twice ------------------------------------


def nothing_ahead(trainer: Trainer) -> None:
    trainer.data.loader.prefetch = 0


def much_ahead(trainer: Trainer) -> None:
    trainer.data.loader.prefetch = 5


def page_locked(trainer: Trainer) -> None:
    trainer.data.loader.pin = True


def product_kept(trainer: Trainer) -> None:
    for block in [*trainer.model.encoder, *trainer.model.decoder]:
        mlp = block.mlp
        mlp.forward = lambda x, mlp=mlp: mlp.fc2(mlp.act(mlp.fc1(x)) * mlp.fc3(x))


def attention_kept(trainer: Trainer) -> None:
    for block in [*trainer.model.encoder, *trainer.model.decoder]:
        for layer in block.modules():
            if isinstance(layer, Attention):
                layer.forward = lambda x, mask, a=layer: a.proj(attended(a._made, mask, a.qkv(x)))
            elif isinstance(layer, CrossAttention):
                layer.forward = lambda x, c, mask, a=layer: a.proj(attended(a._made, mask, a.q(x), a.kv(c)))


def memory_given_back(trainer: Trainer) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parallel, "LARGE", 0)
        parallel.spare_memory(trainer.model, torch.device("cpu"), halve=False)


SAME_BITS: dict[str, tuple[Callable[[Trainer], None] | None, tuple[str, ...]]] = {
    "as it is": (None, ()),
    "no batch prepared ahead": (nothing_ahead, ()),
    "five batches prepared ahead": (much_ahead, ()),
    "batches in page-locked memory": (page_locked, ()),
    "the gated product kept": (product_kept, ()),
    "attention kept": (attention_kept, ()),
    "free memory given back": (memory_given_back, ()),
    "cheap operations computed again": (None, ("parallel.activation_checkpointing='selective'",)),
    "blocks computed again": (None, ("parallel.activation_checkpointing='full'",)),
}


def test_no_bit_of_the_curve_depends_on_what_is_prepared_or_computed_again(make_trainer, monkeypatch) -> None:
    monkeypatch.setattr(Tensor, "pin_memory", lambda tensor: tensor.clone())  # page-locking needs a GPU
    curves = {}
    for name, (change, settings) in SAME_BITS.items():
        trainer = make_trainer(*settings)
        if change is not None:
            change(trainer)
        curves[name] = curve(trainer)
    assert [name for name in curves if curves[name] != curves["as it is"]] == []
    assert curve(make_trainer("run.seed=1")) != curves["as it is"]


def test_no_bit_of_the_curve_in_bfloat16_depends_on_what_gradients_are_kept_in(make_trainer, monkeypatch) -> None:
    kept: dict[str, set[torch.dtype]] = {}
    curves = {}
    for name in ("bfloat16", "float32"):
        if name == "float32":
            monkeypatch.setattr(parallel, "halve_gradients", lambda parameters: None)
        trainer = make_trainer("run.precision='bf16'", "optimizer.clip_norm=0.1")
        seen = kept[name] = set()
        for parameter in parallel.weights_of_products(trainer.model):
            parameter.register_post_accumulate_grad_hook(lambda p, seen=seen: seen.add(p.grad.dtype))
        curves[name] = curve(trainer)
    assert kept == {"bfloat16": {torch.bfloat16}, "float32": {torch.float32}}
    assert curves["bfloat16"] == curves["float32"]


def test_gradients_of_what_follows_the_encoder_lie_where_the_weights_copies_did(make_trainer) -> None:
    trainer = make_trainer("run.precision='bf16'")
    shared, lie = {}, {}
    for name, parameter in trainer.model.named_parameters():
        if hasattr(parameter, "shared"):
            shared[name] = parameter.shared.data_ptr()
            parameter.register_post_accumulate_grad_hook(lambda p, name=name: lie.update({name: p.grad.data_ptr()}))
    curve(trainer)
    assert lie == shared
    products = set(map(id, parallel.weights_of_products(trainer.model)))
    names = {name for name, p in trainer.model.named_parameters() if id(p) in products}
    assert set(shared) == {name for name in names if not name.startswith("encoder.")} < names


def test_gradients_that_add_up_are_kept_in_float32(make_trainer) -> None:
    trainer = make_trainer("run.precision='bf16'", "data.accumulate=2")
    seen = set()
    for parameter in trainer.model.parameters():
        parameter.register_post_accumulate_grad_hook(lambda p: seen.add(p.grad.dtype))
    curve(trainer)
    assert seen == {torch.float32}


# -- what changes the last bits: other sums ----------------------------------------------------------------------------


def change_batches(change: Callable[[TokenBatch], TokenBatch]) -> Callable[[Trainer], None]:
    def apply(trainer: Trainer) -> None:
        made = trainer.data.loader.samples
        trainer.data.loader.samples = lambda *args: change(made(*args))

    return apply


def masks_kept(batch: TokenBatch) -> TokenBatch:
    assert (batch.input_full, batch.target_full) == (True, True)
    return replace(batch, input_full=False, target_full=False)


def padded(batch: TokenBatch) -> TokenBatch:
    """Three input places and two target places more, which hold nothing."""
    empty = {"input_slot": -1, "target_slot": -1, "target_input": -1}
    sides = {"input_code": 3, "input_slot": 3, "input_position": 3}
    sides |= dict.fromkeys(("target_code", "target_slot", "target_position", "target_input"), 2)
    wider = {n: F.pad(getattr(batch, n), (0, more), value=empty.get(n, 0)) for n, more in sides.items()}
    sample, column = batch.target_order // 2, batch.target_order % 2
    return replace(batch, **wider, target_order=sample * 4 + column, input_full=False, target_full=False)


def heads_by_selection(trainer: Trainer) -> None:
    """Each head on the targets that a mask selects, as one would write it down."""
    model = trainer.model

    def forward(batch: TokenBatch) -> Tensor:
        decoded = model.decode(batch, *model.encode(batch))
        sums = []
        for slot, key in enumerate(model.space.keys):
            mine = batch.target_slot == slot
            logits = decoded[mine] @ model.decoder_embeddings[key].to_logits.weight.T
            sums.append(F.cross_entropy(logits, batch.target_code[mine], reduction="sum"))
        return torch.stack(sums)

    model.forward = forward


def everything_embedded(trainer: Trainer) -> None:
    """Embedded modality by modality, and selected afterwards."""
    model = trainer.model
    encode = model.encode

    def one_by_one(codes: Tensor, table: Tensor, *args: object, **kwargs: object) -> Tensor:
        return torch.nn.functional.one_hot(codes, len(table)).to(table.dtype) @ table

    def by_products(batch: TokenBatch) -> tuple[Tensor, Tensor | None]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(F, "embedding", one_by_one)
            return encode(batch)

    model.encode = by_products


def adamw_by_formula(trainer: Trainer) -> None:
    class Plain(torch.optim.AdamW):
        def step(self, *args, **kwargs):
            self.found_inf = None  # only the fused one knows it
            return super().step(*args, **kwargs)

    groups = [{k: g[k] for k in ("params", "weight_decay", "lr_scale")} for g in trainer.optimizer.param_groups]
    settings = trainer.config.optimizer
    trainer.optimizer = Plain(groups, settings.lr, settings.betas, settings.eps, foreach=False, fused=False)


@contextmanager
def attention_by_formula(trainer: Trainer) -> Iterator[None]:
    with sdpa_kernel(SDPBackend.MATH):
        yield


SAME_CURVE: dict[str, tuple[Callable[[Trainer], object] | None, tuple[str, ...]]] = {
    "masks where nothing is masked": (change_batches(masks_kept), ()),
    "more padding": (change_batches(padded), ()),
    "heads by selection": (heads_by_selection, ()),
    "tokens as vectors of zeros and a one": (everything_embedded, ()),
    "AdamW by its formula": (adamw_by_formula, ()),
    "attention by its formula": (attention_by_formula, ()),
    "two halves of a batch": (None, ("data.batch_size=16", "data.accumulate=2")),
    "compiled, and computed again": (
        None,
        ("parallel.compile='always'", "parallel.activation_checkpointing='selective'"),
    ),
}


def test_the_curve_is_the_same_with_every_optimisation_on_and_off(make_trainer, monkeypatch) -> None:
    """Compiled blocks are captured as graphs; machine code takes minutes (tests/model/test_speed_rules.py)."""
    compiler = torch.compile
    monkeypatch.setattr(torch, "compile", lambda f, **options: compiler(f, backend="aot_eager", **options))
    expected = curve(make_trainer())
    for name, (change, settings) in SAME_CURVE.items():
        trainer = make_trainer(*settings)
        context = None if change is None else change(trainer)
        if hasattr(context, "__enter__"):
            with context:
                found = curve(trainer)
        else:
            found = curve(trainer)
        assert len(found) == len(expected), name
        for a, b in zip(found, expected, strict=True):
            assert np.allclose(a, b, rtol=2e-5), f"{name}: {a} instead of {b}"


# -- the host --------------------------------------------------------------------------------------------------------


class Order(TorchDispatchMode):
    """Writes down the names of the operations that are carried out."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        self.names.append(operation.name().partition("::")[2].partition(".")[0])
        return operation(*args, **(kwargs or {}))


def test_all_batches_of_the_next_step_are_prepared_while_the_device_computes(make_trainer) -> None:
    trainer = make_trainer("data.accumulate=6", "data.batch_size=4")
    made: list[int] = []
    samples = trainer.data.loader.samples
    trainer.data.loader.samples = lambda *args: (batch := samples(*args), made.append(len(batch)))[0]
    stream = trainer.data.batches(trainer.position)
    for _ in range(6):
        next(stream)
    threads = [t for t in threading.enumerate() if t.name.startswith("batches")]
    deadline = time.monotonic() + 20
    while len(made) < 12 and time.monotonic() < deadline:
        time.sleep(0.005)
    stream.close()
    assert len(made) >= 12
    assert 1 < len(threads) <= 4


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_step_is_queued_to_its_end_before_the_host_reads_a_number(make_trainer, accumulate: int) -> None:
    """Whether it was finite decides on the device; the host learns loss and norm behind it."""
    trainer = make_trainer(f"data.accumulate={accumulate}")
    stream = trainer.data.batches(trainer.position)
    micro = [[next(stream)[0] for _ in range(accumulate)] for _ in range(2)]
    stream.close()
    trainer.train_step(micro[0])  # AdamW makes its state in the first step
    with Order() as done:
        trainer.train_step(micro[1])
    behind = max(i for i, name in enumerate(done.names) if name == "_fused_adamw_")
    waits = ("_local_scalar_dense", "nonzero", "is_nonzero", "masked_select", "unique", "equal")
    assert [name for name in done.names[:behind] if name.startswith(waits)] == []


def test_a_step_that_is_not_finite_leaves_weights_and_moments_as_they_are(make_trainer) -> None:
    trainer = make_trainer()
    batch = trainer.data.loader.batch(0, 0)
    trainer.train_step([batch])
    before = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
    moments = [{k: v.clone() for k, v in state.items()} for state in trainer.optimizer.state.values()]
    forward = trainer.model.forward
    trainer.model.forward = lambda batch: forward(batch) * float("nan")
    trainer.train_step([batch])
    assert trainer.skips.in_a_row == 1
    assert all(torch.equal(p, before[name]) for name, p in trainer.model.named_parameters())
    for state, was in zip(trainer.optimizer.state.values(), moments, strict=True):
        assert all(torch.equal(state[k], was[k]) for k in was)
    trainer.model.forward = forward
    trainer.train_step([batch])
    assert not torch.equal(trainer.model.mask_token, before["mask_token"])
    assert trainer.skips.in_a_row == 0
