"""A model over several processes: FSDP2 with ZeRO-2, full or hybrid sharding, and activation checkpointing.

The order is that of torchtitan: activation checkpointing, then compilation by block, then sharding of the blocks, then
of the root, which keeps embeddings and heads (so that every rank touches every parameter in every step, whatever
modalities its batch holds), and only then memory for the weights. The initial values are functions of seed and name,
drawn in full and cut (DESIGN section 8), so that any number of processes begins with the same model.

Losses are sums divided by counts of all ranks (`aion_core.train.evaluation.modality_loss`), so gradients are added
over ranks and never averaged.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping
from functools import partial
from itertools import islice
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.utils.checkpoint import checkpoint

from aion_core.contract import AionError, TokenSpace
from aion_core.engine import give_back_memory, halve_gradients, keep_memory, total_norm
from aion_core.engine.device import computes_bf16
from aion_core.engine.distributed import World
from aion_core.model import AionModel
from aion_core.model.embeddings import DecoderEmbedding
from aion_core.model.growth import freeze_old
from aion_core.model.initialise import initial
from aion_core.model.linear import keeping_products, share_memory
from aion_core.train.config import ParallelSettings, TrainConfig

#: Bytes of weights below which it is not worth it to govern the allocator.
LARGE = 128 << 20


def build_model(
    config: TrainConfig,
    space: TokenSpace,
    world: World,
    inputs: Collection[str] | None = None,
    outputs: Collection[str] | None = None,
) -> AionModel:
    """Return the model of a run with its initial weights, on this process's device and cut as the settings say.

    `inputs` and `outputs` are the modalities that can be given and asked for (default: all).
    """
    build = partial(AionModel, config.model.build(), space, config.run.seed, inputs=inputs, outputs=outputs)
    if world.size == 1:
        check_replicas(config.parallel, world)
        model = build().to(world.device)
        choose_trained(model, config)
        spare_memory(model, world.device, halve=halves_gradients(config, world.device))
        checkpoint_activations(model, config.parallel)
        compile_blocks(model, config.parallel, world.device)
        return model
    with torch.device("meta"):
        model = build()
    choose_trained(model, config)
    checkpoint_activations(model, config.parallel)
    compile_blocks(model, config.parallel, world.device)
    shard(model, config.parallel, world, config.run.precision)
    materialise(model, world.device, config.run.seed)
    return model


def choose_trained(model: AionModel, config: TrainConfig) -> None:
    """Leave out of the training what is to stay as it is: all but what was appended last, if that is wanted."""
    if config.model.freeze_old:
        freeze_old(model, model.space.newest())


def blocks(model: AionModel) -> list[nn.Module]:
    """Return the layers that are checkpointed, compiled and sharded one by one, in the order of the forward pass."""
    return [*model.encoder, *model.decoder]


# -- memory of a process that has the whole model ---------------------------------------------------------------------


def halves_gradients(config: TrainConfig, device: torch.device) -> bool:
    """Whether gradients are kept in bfloat16, as products give them: if nothing is added to them in a step."""
    return computes_bf16(device, config.run.precision) and config.data.accumulate == 1


def spare_memory(model: AionModel, device: torch.device, halve: bool) -> None:
    """Let gradients take half the memory, and give back on the way through the model what a CPU's allocator holds free.

    By itself the allocator hands memory back and fetches it again all the time, page by page, which can take a fifth
    of a step; but what it never hands back lies in pieces, which what comes next seldom fits. So it keeps what is
    freed, and gives it back in the first half of the backward pass, where gradients begin to need it: not where large
    batches have left more than all gradients take.
    """
    if halve:
        halve_gradients(weights_of_products(model))
    if device.type != "cpu":
        return
    if halve:
        # The encoder's gradients come when its activations go: memory of their own would be idle when most is in use.
        early = set(map(id, model.encoder.parameters()))
        share_memory(weight for weight in weights_of_products(model) if id(weight) not in early)
    weights = sum(p.nbytes for p in model.parameters())
    if weights < LARGE:
        return
    keep_memory()
    every = blocks(model)
    for block in (every[-1], every[3 * len(every) // 4], every[len(every) // 2]):
        for parameter in islice((p for p in block.parameters() if p.requires_grad), 1):
            parameter.register_post_accumulate_grad_hook(lambda _: give_back_memory(3 * weights // 2))


def weights_of_products(model: AionModel) -> list[nn.Parameter]:
    """Return the weights that take part in a step by one product of matrices alone."""
    heads = [cast(DecoderEmbedding, e).to_logits.weight for e in model.decoder_embeddings.values()]
    return [*heads, *(cast(nn.Parameter, m.weight) for m in model.modules() if isinstance(m, nn.Linear))]


# -- activation checkpointing ----------------------------------------------------------------------------------------


def checkpoint_activations(model: AionModel, settings: ParallelSettings) -> None:
    """Let the blocks compute what their backward pass needs again, in place; parameters keep their names."""
    if settings.activation_checkpointing == "none":
        return
    more: dict[str, Any] = {"use_reentrant": False, "preserve_rng_state": False}  # nothing in a block is random
    if settings.activation_checkpointing == "selective":
        more["context_fn"] = keeping_products
    for block in blocks(model):
        block.forward = partial(checkpoint, block.forward, **more)  # the instance's own: hooks stay outside of it


# -- compilation -----------------------------------------------------------------------------------------------------


def compile_blocks(model: AionModel, settings: ParallelSettings, device: torch.device) -> None:
    """Compile the blocks one by one, in place: all of a kind share one graph, for a batch has a fixed shape.

    A block's own forward pass is compiled and not its call, so that the hooks that gather shards stay outside. On a CPU
    it takes minutes and gains a twentieth, so `auto` leaves it out there.
    """
    if settings.compile == "never" or (settings.compile == "auto" and device.type == "cpu"):
        return
    for block in blocks(model):
        block.forward = _compiled(block.forward)


def _compiled(forward: Callable[..., Tensor]) -> Callable[..., Tensor]:
    fast = torch.compile(forward, dynamic=False)

    def choose(*tensors: Tensor | None) -> Tensor:  # evaluation has many shapes: each would be compiled anew
        return fast(*tensors) if torch.is_grad_enabled() else forward(*tensors)

    return choose


# -- sharding --------------------------------------------------------------------------------------------------------


def check_replicas(settings: ParallelSettings, world: World) -> None:
    """Refuse a number of replicas that the processes cannot form."""
    if world.size % settings.replicate:
        raise AionError(
            f"parallel.replicate is {settings.replicate}, but {world.size} processes cannot form so many equal groups; "
            f"choose a divisor of {world.size}."
        )


def make_mesh(settings: ParallelSettings, world: World) -> DeviceMesh:
    """Return the processes as a line that shards, or as rows that shard and columns that replicate (HSDP)."""
    check_replicas(settings, world)
    kind = world.device.type
    if settings.replicate == 1:
        return init_device_mesh(kind, (world.size,), mesh_dim_names=("shard",))
    shape = (settings.replicate, world.size // settings.replicate)
    return init_device_mesh(kind, shape, mesh_dim_names=("replicate", "shard"))


def shard(model: AionModel, settings: ParallelSettings, world: World, precision: str) -> None:
    """Cut the parameters of a model, in place."""
    mesh = make_mesh(settings, world)
    # The residual stream stays in float32 as in a single process, where autocast decides: inputs are not cast.
    policy = MixedPrecisionPolicy(
        param_dtype=torch.bfloat16 if computes_bf16(world.device, precision) else None,
        reduce_dtype=torch.float32,
        cast_forward_inputs=False,
    )
    for block in blocks(model):
        fully_shard(block, mesh=mesh, mp_policy=policy, reshard_after_forward=settings.sharding == "full")
    fully_shard(model, mesh=mesh, mp_policy=policy, reshard_after_forward=False)
    for part in _parts(model):
        part.set_gradient_divide_factor(1.0)
        part.set_force_sum_reduction_for_comms(True)  # gloo has no reduction that divides


def _parts(model: nn.Module) -> Iterator[FSDPModule]:
    return (module for module in model.modules() if isinstance(module, FSDPModule))


@torch.no_grad()
def materialise(model: nn.Module, device: torch.device, seed: int) -> None:
    """Give a model that was built without memory its initial weights, of which one at a time is drawn in full."""
    model._apply(lambda t: torch.empty_like(t, device=device) if t.is_meta else t.to(device))
    for name, parameter in model.named_parameters():
        whole = initial(name, parameter.shape, seed).to(device)
        if isinstance(parameter, DTensor):
            # All ranks have drawn the same tensor: each cuts its part out, and nothing is sent.
            whole = distribute_tensor(whole, parameter.device_mesh, parameter.placements, src_data_rank=None)
        parameter.copy_(whole)


# -- a step ----------------------------------------------------------------------------------------------------------


def communicate_gradients(model: nn.Module, sharding: str, last: bool) -> None:
    """Let the next backward pass communicate if it is the `last` of a step; those before add up on each rank.

    With ``sharding = "zero2"``, weights that are gathered stay until then, too.
    """
    if isinstance(model, FSDPModule):
        model.set_requires_gradient_sync(last)
        model.set_is_last_backward(last)
        model.set_reshard_after_backward(last or sharding == "full")


def reshard(model: nn.Module) -> None:
    """Free gathered weights, which a forward pass leaves in place where no backward pass follows."""
    for part in _parts(model):
        part.reshard()


def local_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return what this process holds of each parameter, by name, in the same memory.

    The optimiser works on these: on distributed tensors, each of its steps would look up how every one is cut.
    """
    return {
        name: nn.Parameter(p.to_local().detach(), p.requires_grad) if isinstance(p, DTensor) else p
        for name, p in model.named_parameters()
    }


def gradient_norm(model: nn.Module, local: Mapping[str, nn.Parameter], world: World) -> Tensor:
    """Hand the gradients to the local parameters, and return their norm over all ranks."""
    replicas = 1
    for name, parameter in model.named_parameters():
        if isinstance(parameter, DTensor):
            gradient = parameter.grad
            local[name].grad = gradient.to_local() if isinstance(gradient, DTensor) else gradient
            replicas = copies(parameter)
    norm = total_norm(p.grad for p in local.values() if p.grad is not None)
    if world.size > 1:
        norm = (world.sum(norm.square()) / replicas).sqrt()
    return norm


def copies(parameter: DTensor) -> int:
    """Return how many processes hold each row of a parameter."""
    mesh = parameter.device_mesh
    return math.prod(mesh.size(axis) for axis, p in enumerate(parameter.placements) if p.is_replicate())
