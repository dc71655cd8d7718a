"""What the training step may not do, whatever else changes: each of these rules once cost a measured share of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from aion_core.data.batches import TokenBatch, batch_of_tokens
from aion_core.engine import OptimizerSettings, World, build_optimizer
from aion_core.engine.device import autocast, computes_bf16, multiplies_bf16
from aion_core.model import AionConfig, AionModel, layers, linear
from aion_core.model.layers import Attention, Mlp
from aion_core.train.config import ParallelSettings
from aion_core.train.evaluation import modality_loss
from aion_core.train.memory import LiveBytes
from aion_core.train.parallel import checkpoint_activations, compile_blocks, gradient_norm

#: Operations whose result the host has to wait for, because a number or a shape depends on it.
WAITING = ("_local_scalar_dense", "nonzero", "unique", "masked_select", "is_nonzero", "equal", "_assert_async")


class Operations(TorchDispatchMode):
    """Counts the operations that are carried out, with the shapes of what they give."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()
        self.shapes: list[tuple[str, tuple[int, ...]]] = []

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        result = operation(*args, **(kwargs or {}))
        name = operation.name().partition("::")[2].partition(".")[0]
        self.counts[name] += 1
        if isinstance(result, Tensor):
            self.shapes.append((name, tuple(result.shape)))
        return result


@pytest.fixture
def batch(space, tokens) -> TokenBatch:
    """Budgets of 24 and 9 places, all full; test_g is nowhere, and a sequence is asked for."""
    codes = tokens(3, "test_sources")["test_sources"][:, :8]
    given, wanted = tokens(3, "test_image", "test_coefficients", "test_r"), {"test_sources": codes}
    made = batch_of_tokens(space, given, wanted | tokens(3, "test_r", seed=2), previous={"test_sources": codes})
    assert (made.input_full, made.target_full) == (True, True)
    return made


def step(model: AionModel, batch: TokenBatch, optimizer: torch.optim.Optimizer | None = None) -> Tensor:
    loss = modality_loss(model(batch), batch.target_counts, torch.ones(len(model.space)), "modality")
    loss.backward()
    if optimizer is not None:
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return loss.detach()


def make_optimizer(model: AionModel) -> torch.optim.Optimizer:
    return build_optimizer(model, OptimizerSettings(steps=1), lambda name, p: p.ndim == 2)


def gradients(model: AionModel, batch: TokenBatch) -> tuple[Tensor, dict[str, Tensor]]:
    model.zero_grad()
    loss = step(model, batch)
    return loss, {name: p.grad.clone() for name, p in model.named_parameters()}


@pytest.mark.parametrize("padded", [False, True])
def test_the_host_never_waits_for_the_device_within_a_step(model, batch, padded: bool) -> None:
    if padded:
        slot = batch.input_slot.clone()
        slot[0, 3] = -1
        batch = replace(batch, input_slot=slot, input_full=False)
    optimizer = make_optimizer(model)
    step(model, batch, optimizer)  # AdamW makes its state in the first step
    with Operations() as done:
        step(model, batch, optimizer)
    assert done.counts["_fused_adamw_"] > 0
    assert {name for name in done.counts if name.startswith(WAITING)} == set()


@pytest.mark.parametrize("padded", [False, True])
def test_a_step_is_queued_without_a_number_that_the_device_holds(model, batch, padded: bool) -> None:
    """On a device without contents, whatever reads one fails, and so does what mixes tensors of host and device."""
    device = torch.device("meta")
    model, batch = model.to(device), batch.to(device)
    if padded:
        batch = replace(batch, input_full=False, target_full=False)
    weights = torch.ones(len(model.space), device=device)
    modality_loss(model(batch), batch.target_counts, weights, "modality").backward()
    norm = gradient_norm(model, dict(model.named_parameters()), World(0, 1, device))
    torch.nn.utils.clip_grads_with_norm_(model.parameters(), 1.0, norm)
    assert {norm.device, *(p.grad.device for p in model.parameters())} == {device}


def synchronisations(model: AionModel, batch: TokenBatch) -> None:
    """Raise where CUDA waits for the device in a step."""
    model, batch = model.cuda(), batch.to("cuda")
    optimizer, weights = make_optimizer(model), torch.ones(len(model.space), device="cuda")

    def once() -> None:
        modality_loss(model(batch), batch.target_counts, weights, "modality").backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    once()
    torch.cuda.set_sync_debug_mode("error")
    try:
        once()
    finally:
        torch.cuda.set_sync_debug_mode("default")


if torch.cuda.is_available():  # no skip: elsewhere the rule above stands for it

    def test_cuda_reports_no_synchronisation_within_a_step(model, batch) -> None:
        synchronisations(model, batch)


def test_embedding_is_three_gathers_for_the_encoder_and_as_many_for_the_decoder(model, batch) -> None:
    with Operations() as done:
        model(batch)
    assert done.counts["embedding"] == 6


def test_nothing_is_as_long_as_what_the_objects_have(model, batch) -> None:
    """Tokens are selected before they are embedded: a batch of 2 places costs 2 places, of whatever 44 there are."""
    some = replace(
        batch,
        **{name: getattr(batch, name)[:, :2] for name in ("input_code", "input_slot", "input_position")},
    )
    with torch.no_grad(), Operations() as done:
        model.encode(some)
    lengths = {shape[1] for name, shape in done.shapes if len(shape) == 3 and shape[0] == len(batch)}
    assert lengths == {2}


def test_heads_see_the_targets_of_their_modality_only(model, batch) -> None:
    """The products with the heads have one row a target, and no table of all heads is put together."""
    dim = model.config.dim
    vocabularies = {spec.vocab_size for spec in model.space.specs()}
    with Operations() as done:
        model(batch)
    rows = [shape[0] for name, shape in done.shapes if name in ("mm", "addmm") and shape[1] in vocabularies]
    assert sum(rows) == sum(batch.target_counts)
    tables = [shape for name, shape in done.shapes if name == "cat" and len(shape) == 2 and shape[1] == dim]
    given, sequences = sum(s.vocab_size for s in model.space.specs()), 300
    assert sorted(length for length, _ in tables) == sorted([given, 1 + sequences, len(model.space), len(model.space)])


def test_masks_are_left_out_where_nothing_is_masked(model, batch, tokens, monkeypatch) -> None:
    seen: list[Tensor | None] = []
    attend = layers.projected

    def spy(make, norms, proj, mask, *inputs):
        seen.append(mask)
        return attend(make, norms, proj, mask, *inputs)

    monkeypatch.setattr(layers, "projected", spy)
    model(batch_of_tokens(model.space, tokens(2, "test_image"), tokens(2, "test_coefficients")))
    assert seen == [None] * 6
    seen.clear()
    model(batch)  # targets of two modalities: only they are kept apart
    assert [mask is None for mask in seen] == [True] * 2 + [False, True] * 2


def bytes_kept(function: Callable[[Tensor], Tensor], x: Tensor) -> int:
    """Return the memory that is taken between forward and backward, parameters and input aside."""
    with LiveBytes() as live:
        result = function(x)
        assert result.grad_fn is not None
        return live.now - result.nbytes


def test_the_gated_product_is_not_kept_and_no_product_of_matrices_is_done_twice() -> None:
    mlp = Mlp(AionConfig(dim=32, num_heads=4))
    x = torch.randn(5, 32, generator=torch.Generator().manual_seed(0), requires_grad=True)
    hidden = mlp.fc1.out_features
    assert bytes_kept(plainly(mlp), x) == 4 * 5 * hidden * 4
    assert bytes_kept(mlp, x) == 2 * 5 * hidden * 4
    with FlopCounterMode(display=False) as counter:
        mlp(x).sum().backward()
    assert counter.get_total_flops() == 3 * 3 * 2 * 5 * 32 * hidden


@pytest.mark.parametrize("half", [False, True])
def test_on_a_cpu_little_of_attention_and_nothing_of_the_gated_product_is_kept(half: bool, monkeypatch) -> None:
    """Kept are what queries, keys and values are made of, and the attended values, which enter the last product.

    In float32 the sums of softmax are kept, too, and attention is not computed twice; no product of matrices ever is.
    """
    monkeypatch.setattr(linear, "NATIVE", False)
    config = AionConfig(dim=32, num_heads=4)
    x = torch.randn(2, 16, 32, generator=torch.Generator().manual_seed(0), requires_grad=True)

    def computed(layer: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        def compute(x: Tensor) -> Tensor:
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
                return layer(x)

        return compute

    size = x.nbytes // 2 if half else x.nbytes
    attention = Attention(config)
    attend = computed(lambda x: attention(x, None))
    sums = 2 * config.num_heads * 16 * 4
    assert bytes_kept(attend, x) == (3 + 1 + 1) * size if half else (3 + 1) * size + sums
    mlp = Mlp(config)
    assert bytes_kept(computed(mlp), x) == 2 * size // 32 * mlp.fc1.out_features + (size if half else 0)
    with FlopCounterMode(display=False) as counter:
        computed(mlp)(x).sum().backward()
    assert counter.get_total_flops() == 3 * 3 * 2 * 32 * 32 * mlp.fc1.out_features


# -- optimisations change nothing --------------------------------------------------------------------------------------


def plainly(mlp: Mlp) -> Callable[[Tensor], Tensor]:
    """The layer as its formula: fc2(act(fc1 x) · fc3 x)."""
    return lambda x: mlp.fc2(mlp.act(mlp.fc1(x)) * mlp.fc3(x))


def test_computing_again_leaves_loss_and_gradients_as_they_are(model, batch) -> None:
    loss, found = gradients(model, batch)
    for block in [*model.encoder, *model.decoder]:
        block.mlp.forward = plainly(block.mlp)
    expected_loss, expected = gradients(model, batch)
    assert loss == expected_loss
    assert [name for name in expected if not torch.equal(found[name], expected[name])] == []


def test_fused_attention_leaves_loss_and_gradients_as_they_are(model, batch) -> None:
    loss, found = gradients(model, batch)
    with sdpa_kernel(SDPBackend.MATH):
        expected_loss, expected = gradients(model, batch)
    assert torch.allclose(loss, expected_loss, rtol=1e-6)
    for name, value in expected.items():
        assert torch.allclose(found[name], value, rtol=1e-4, atol=1e-5 * value.abs().max() + 1e-12), name


def test_fused_adamw_takes_the_step_that_the_formula_says(model, batch) -> None:
    """Without state, AdamW moves by −lr·g/(|g| + ε), and first by −lr·decay·w."""
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    _, gradient = gradients(model, batch)
    settings = OptimizerSettings(steps=1, lr=1e-2, weight_decay=0.1)
    build_optimizer(model, settings, lambda name, p: p.ndim == 2).step()
    for name, parameter in model.named_parameters():
        w, g = before[name], gradient[name]
        decayed = w * (1 - 1e-2 * 0.1) if w.ndim == 2 else w
        expected = decayed - 1e-2 * g / (g.abs() + settings.eps)
        assert torch.allclose(parameter, expected, rtol=1e-4, atol=1e-6), name


def test_dropping_masks_leaves_the_loss_as_it_is(model, batch) -> None:
    masked = replace(batch, input_full=False, target_full=False)
    assert torch.allclose(step(model, batch), step(model, masked), rtol=1e-6)


@pytest.mark.parametrize(
    "checkpointing", ["selective", *(pytest.param(c, marks=pytest.mark.slow) for c in ("none", "full"))]
)
def test_compiled_blocks_train_as_others_do(model, batch, checkpointing, monkeypatch) -> None:
    """Captured as graphs, but not turned into machine code, which takes minutes and is the slow test's."""
    compiler = torch.compile
    monkeypatch.setattr(torch, "compile", lambda f, **options: compiler(f, backend="aot_eager", **options))
    loss, expected = gradients(model, batch)
    settings = ParallelSettings(compile="always", activation_checkpointing=checkpointing)
    checkpoint_activations(model, settings)
    compile_blocks(model, settings, torch.device("cpu"))
    again, found = gradients(model, batch)
    assert torch.allclose(again, loss, rtol=1e-6)
    for name, value in expected.items():
        assert torch.allclose(found[name], value, rtol=1e-4, atol=1e-5 * value.abs().max() + 1e-12), name


@pytest.mark.parametrize("checkpointing", ["none", "selective"])
def test_blocks_of_a_kind_share_one_whole_graph(space, tokens, checkpointing, monkeypatch) -> None:
    """Ten are more than PyTorch compiles of one function; it would leave the rest, and what breaks a graph, as it is.

    Later steps compile nothing, unless masks come or go, of which there are few cases.
    """
    graphs: list[object] = []
    compiler = torch.compile
    backend = lambda graph, inputs: graphs.append(graph) or graph  # noqa: E731
    monkeypatch.setattr(torch, "compile", lambda f, **o: compiler(f, backend=backend, fullgraph=True, **o))
    model = AionModel(AionConfig(dim=16, encoder_depth=10, decoder_depth=10, num_heads=2), space)
    settings = ParallelSettings(compile="always", activation_checkpointing=checkpointing)
    checkpoint_activations(model, settings)
    compile_blocks(model, settings, torch.device("cpu"))
    compiled = []
    for seed, masked in ((1, False), (2, False), (3, True), (4, True), (5, False)):
        keys = ("test_r", "test_coefficients") if masked else ("test_coefficients",)
        made = batch_of_tokens(space, tokens(3, "test_image", seed=seed), tokens(3, *keys, seed=seed + 9))
        with torch.autocast("cpu", dtype=torch.bfloat16):  # as on a GPU
            sums = model(replace(made, input_full=not masked, target_full=not masked))
        sums.sum().backward()
        compiled.append(len(graphs))
    assert compiled == [2, 2, 4, 4, 4]


@pytest.mark.slow
def test_machine_code_of_compiled_blocks_trains_as_others_do(model, batch) -> None:
    loss, expected = gradients(model, batch)
    compile_blocks(model, ParallelSettings(compile="always"), torch.device("cpu"))
    again, found = gradients(model, batch)
    assert torch.allclose(again, loss, rtol=1e-5)
    for name, value in expected.items():
        assert torch.allclose(found[name], value, rtol=1e-3, atol=1e-4 * value.abs().max() + 1e-12), name


def test_evaluation_is_not_compiled_for_each_of_its_shapes(model, batch, tokens, monkeypatch) -> None:
    def refuse(*tensors: Tensor) -> Tensor:
        raise AssertionError("a compiled block was called")

    monkeypatch.setattr(torch, "compile", lambda f, **options: refuse)
    compile_blocks(model, ParallelSettings(compile="always"), torch.device("cpu"))
    model.embed(tokens(2, "test_image"))
    with pytest.raises(AssertionError, match="compiled block"):
        model(batch)


def test_blocks_are_compiled_on_a_gpu_only_unless_it_is_asked_for(model, monkeypatch) -> None:
    compiled: list[object] = []
    monkeypatch.setattr(torch, "compile", lambda f, **options: compiled.append(f) or f)
    for setting, device, number in (
        ("auto", "cpu", 0), ("auto", "cuda", 4), ("never", "cuda", 0), ("always", "cpu", 4),
    ):  # fmt: skip
        compiled.clear()
        compile_blocks(model, ParallelSettings(compile=setting), torch.device(device))
        assert len(compiled) == number, (setting, device)


# -- precision ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("able", [{}, {"avx512": True}, {"avx512_bf16": True}, {"amx_bf16": True}])
def test_bf16_is_chosen_where_the_device_has_instructions_for_it(able, monkeypatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: able)
    cpu = torch.device("cpu")
    native = any(name.endswith("_bf16") for name in able)
    assert multiplies_bf16(cpu) == native
    assert computes_bf16(cpu, "auto") == native
    assert (computes_bf16(cpu, "bf16"), computes_bf16(cpu, "fp32")) == (True, False)
    assert multiplies_bf16(torch.device("cuda"))
    with autocast(cpu, "auto"):
        assert torch.is_autocast_enabled("cpu") == native
