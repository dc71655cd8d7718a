"""What several processes add up, and that one process alone needs no others."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from aion_core.contract import AionError
from aion_core.engine import World, open_world
from aion_core.engine.distributed import mean_over_ranks

CPU = torch.device("cpu")

SCRIPT = """
import json, sys
import torch
from torch import nn
from aion_core.engine import open_world
from aion_core.engine.distributed import mean_over_ranks

with open_world(torch.device("cpu")) as world:
    model = nn.ModuleDict({"a": nn.Linear(2, 1, bias=False), "b": nn.Linear(2, 1, bias=False)})
    for p in model.parameters():
        nn.init.ones_(p)
    mine = model["a" if world.rank == 0 else "b"]      # each rank lacks a module
    (mine(torch.ones(1, 2)) * (world.rank + 1)).sum().backward()
    world.sum_gradients(model.parameters())
    gradients = [p.grad.flatten().tolist() for p in model.parameters()]

    # the entropy of a mean, in parts of 1 and 3 rows: value and gradient are those of the whole
    table = torch.arange(12.0).square().reshape(4, 3) / 30
    weight = torch.ones(3, requires_grad=True)
    rows = table[:1] if world.rank == 0 else table[1:]
    mean = mean_over_ranks((rows * weight).softmax(1).mean(0), len(rows))
    entropy = -(mean * mean.log()).sum() * (len(rows) / 4)
    entropy.backward()
    found = {
        "gradients": gradients,
        "entropy": float(world.sum(entropy.detach())),
        "slope": world.sum(weight.grad).tolist(),
        "gathered": world.gather({"rank": world.rank, "text": "x" * world.rank}),
        "any": [world.any(world.rank == 1), world.any(False)],
        "lead": world.lead,
    }
    norm = nn.BatchNorm1d(2)
    norm.running_mean.fill_(float(world.rank))
    world.average_buffers(norm)
    found["running_mean"] = norm.running_mean.tolist()
    world.barrier()
with open(f"{sys.argv[1]}/{world.rank}.json", "w") as file:
    json.dump(found, file)
"""


@pytest.fixture(scope="module")
def two(tmp_path_factory) -> list[dict]:
    """What two processes found."""
    folder: Path = tmp_path_factory.mktemp("ranks")
    (folder / "script.py").write_text(SCRIPT)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [*command, str(folder / "script.py"), str(folder)], env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in (0, 1)]


def test_gradients_add_up_where_a_rank_did_not_use_a_parameter(two) -> None:
    assert two[0]["gradients"] == two[1]["gradients"] == [[1.0, 1.0], [2.0, 2.0]]


def test_the_entropy_of_a_mean_is_that_of_the_whole_batch_and_so_is_its_gradient(two) -> None:
    weight = torch.ones(3, requires_grad=True)
    mean = (torch.arange(12.0).square().reshape(4, 3) / 30 * weight).softmax(1).mean(0)
    entropy = -(mean * mean.log()).sum()
    entropy.backward()
    for found in two:
        assert found["entropy"] == pytest.approx(float(entropy.detach()), rel=1e-6)
        assert found["slope"] == pytest.approx(weight.grad.tolist(), rel=1e-5)


def test_every_rank_learns_what_any_rank_knows(two) -> None:
    for found in two:
        assert found["gathered"] == [{"rank": 0, "text": ""}, {"rank": 1, "text": "x"}]
        assert found["any"] == [True, False]
        assert found["running_mean"] == [0.5, 0.5]
    assert [found["lead"] for found in two] == [True, False]


class TestAlone:
    def test_nothing_is_communicated(self, monkeypatch) -> None:
        for name in ("RANK", "WORLD_SIZE"):
            monkeypatch.delenv(name, raising=False)
        with open_world(CPU) as world:
            assert not torch.distributed.is_initialized()
            assert (world.rank, world.size, world.lead) == (0, 1, True)
            assert world.gather([1]) == [[1]]
            assert world.any(True)
            assert not world.any(False)
            values = torch.ones(2)
            assert world.sum(values) is values
            assert mean_over_ranks(values, 3) is values

    def test_unused_parameters_get_zeros_as_they_would_in_company(self) -> None:
        model = nn.Linear(2, 1)
        model.bias.requires_grad_(False)
        World(0, 1, CPU).sum_gradients(model.parameters())
        assert torch.equal(model.weight.grad, torch.zeros(1, 2))
        assert model.bias.grad is None

    def test_what_cannot_be_shared_evenly_is_refused(self) -> None:
        assert World(0, 2, CPU).share(8, "batch_size") == 4
        with pytest.raises(AionError, match="batch_size is 9, which 2 processes cannot share evenly"):
            World(0, 2, CPU).share(9, "batch_size")
