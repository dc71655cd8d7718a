"""`aion train --dry-run`: what a run would take, and whether it can be done."""

from __future__ import annotations

import json

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from aion_core.cli import main
from aion_core.data import TokenStore
from aion_core.data.statistics import store_statistics, token_counts
from aion_core.engine import World
from aion_core.engine.hardware import GPUS, find_gpu
from aion_core.model import AionModel, linear
from aion_core.model.flops import training_flops
from aion_core.train import TrainConfig
from aion_core.train.data import TrainingData
from aion_core.train.memory import any_batch, memory_per_gpu, state_bytes, step_bytes
from aion_core.train.parallel import weights_of_products

#: Wide enough that activations, not the fixed costs, are what is measured.
WIDE = (
    "model={dim=64, encoder_depth=3, decoder_depth=2, num_heads=4}",
    "masking={input_budget=96, target_budget=48}",
)


@pytest.fixture
def plan_of(make_store, make_config, capsys):
    """Return the plan that the command prints, with some settings changed."""
    make_store()

    def plan(*changes: str, flags: tuple[str, ...] = ()) -> dict:
        words = [w for change in changes for w in ("--set", change)]
        assert main(["train", str(make_config()), "--dry-run", "--json", *flags, *words]) == 0, capsys.readouterr().err
        return json.loads(capsys.readouterr().out)

    return plan


@pytest.fixture
def refused(make_store, make_config, capsys):
    """Return the sentence with which a plan is refused."""
    make_store()

    def refuse(*changes: str, flags: tuple[str, ...] = ()) -> str:
        words = [w for change in changes for w in ("--set", change)]
        assert main(["train", str(make_config()), "--dry-run", *flags, *words]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        return error

    return refuse


def test_a_plan_counts_what_there_is_and_writes_nothing(plan_of, tmp_path) -> None:
    found = plan_of()
    data = TrainingData(*_settings(tmp_path), World(0, 1, torch.device("cpu")))
    model = AionModel(TrainConfig.from_toml(tmp_path / "run.toml").model.build(), data.space)
    assert found["parameters"]["total"] == sum(p.numel() for p in model.parameters())
    assert found["training_objects"] + found["held_out_objects"] == 600
    assert found["training_objects"] == len(data.loader)
    statistics = store_statistics(TokenStore.open(tmp_path / "stores"))["modalities"]
    assert {key: (m["objects"], m["tokens"]) for key, m in found["modalities"].items()} == {
        key: (m["objects"], m["tokens"]) for key, m in statistics.items()
    }
    assert not (tmp_path / "run").exists()


def _settings(tmp_path):
    config = TrainConfig.from_toml(tmp_path / "run.toml")
    return config.data, config.masking, config.run.seed


def test_time_follows_from_flops_peak_and_utilisation(plan_of, tmp_path) -> None:
    found = plan_of(flags=("--gpus", "4", "--device", "h200", "--mfu", "0.25"))
    compute = found["compute"]
    config = TrainConfig.from_toml(tmp_path / "run.toml")
    heads = [(m["targets_per_sample"], 12) for m in found["modalities"].values()]
    per_sample = training_flops(config.model.build(), 8, 8, heads)
    assert compute["flops_per_sample"] == pytest.approx(per_sample, rel=1e-6)
    assert compute["seconds_per_step"] == pytest.approx(per_sample * 32 / (4 * 989e12 * 0.25), rel=1e-6)
    assert compute["gpu_hours"] == pytest.approx(compute["seconds_per_step"] * 20 * 4 / 3600)


def test_the_tokens_of_a_sample_are_those_that_are_drawn(plan_of) -> None:
    modalities = plan_of()["modalities"].values()
    # 6 tokens an object (5 where b is missing), of which each is input, target, or neither where neither has room
    total = sum(m["inputs_per_sample"] + m["targets_per_sample"] for m in modalities)
    assert 5.5 < total <= 6


def test_sources_are_mixed_by_weight_and_some_come_round_more_often(make_store, plan_of, tmp_path) -> None:
    small = make_store("small", n=100, seed=3).rename(tmp_path / "small.arrow")
    stores = f"data.train=[{{stores=['{tmp_path / 'stores'}'], weight=1}}, {{stores=['{small}'], weight=3}}]"
    first, second = plan_of(stores, "optimizer.steps=1000")["sources"]
    assert (first["share"], second["share"]) == (0.25, 0.75)
    assert second["epochs"] == pytest.approx(0.75 * 32 * 1000 / second["objects"])
    assert first["objects"] > 4 * second["objects"]


@pytest.mark.parametrize("checkpointing", ["none", "selective", "full"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_memory_of_a_step_is_what_the_allocator_measures(
    make_store, make_config, tmp_path, checkpointing, precision, monkeypatch
) -> None:
    monkeypatch.setattr(linear, "on_cpu", lambda x: False)  # as on the device that is planned for
    make_store()
    changes = [*WIDE, f"parallel.activation_checkpointing='{checkpointing}'", f"run.precision='{precision}'"]
    config = TrainConfig.from_toml(make_config(), changes)
    space = TokenStore(tmp_path / "stores/store.arrow").space
    targets = [12.0] * len(space)
    assert step_bytes(config, space, 16, targets) == pytest.approx(_allocated(config, space, 16, targets), rel=0.1)


def _allocated(config: TrainConfig, space, samples: int, targets: list[float]) -> int:
    """The most that the CPU's allocator gave out in a real forward and backward pass, besides gradients."""
    from aion_core.train.parallel import checkpoint_activations

    model = AionModel(config.model.build(), space)
    checkpoint_activations(model, config.parallel)
    for p in model.parameters():
        p.register_post_accumulate_grad_hook(lambda p: setattr(p, "grad", None))
    batch = any_batch(space, config.masking, samples, targets)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=config.run.precision == "bf16"):
            loss = model(batch).sum()
        loss.backward()
    events = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
    now = most = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        now += event.nbytes()
        most = max(most, now)
    return most


def test_what_autograd_saves_is_most_of_a_steps_memory(make_store, make_config, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(linear, "on_cpu", lambda x: False)
    make_store()
    config = TrainConfig.from_toml(make_config(), WIDE)
    space = TokenStore(tmp_path / "stores/store.arrow").space
    model, saved = AionModel(config.model.build(), space), {}
    batch = any_batch(space, config.masking, 64, [12.0] * len(space))

    def keep(tensor):
        saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model(batch)
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    total = sum(storage.nbytes() for place, storage in saved.items() if place not in weights)
    assert step_bytes(config, space, 64, [12.0] * len(space)) == pytest.approx(total, rel=0.15)


class TestState:
    @pytest.fixture
    def config(self, make_store, make_config, tmp_path):
        make_store()
        self.space = TokenStore(tmp_path / "stores/store.arrow").space
        return lambda *changes: TrainConfig.from_toml(make_config(), [*WIDE, "run.precision='bf16'", *changes])

    def test_one_gpu_holds_sixteen_bytes_a_parameter(self, config) -> None:
        n = sum(p.numel() for p in AionModel(config().model.build(), self.space).parameters())
        for changes in ("run.precision='fp32'",), ("data.accumulate=2",):
            assert sum(state_bytes(config(*changes), self.space, 1).values()) == 16 * n

    def test_in_bfloat16_gradients_of_products_take_two_bytes_where_nothing_is_added_to_them(self, config) -> None:
        model = AionModel(config().model.build(), self.space)
        halved = {id(p) for p in weights_of_products(model)}
        bytes_each = [14 if id(p) in halved else 16 for p in model.parameters()]
        expected = sum(b * p.numel() for b, p in zip(bytes_each, model.parameters(), strict=True))
        assert sum(state_bytes(config(), self.space, 1).values()) == expected
        assert len(halved) > 10

    def test_several_share_them_and_gather_a_copy(self, config) -> None:
        n = sum(p.numel() for p in AionModel(config().model.build(), self.space).parameters())
        found = state_bytes(config(), self.space, 8)
        assert found["weights"] + found["gradients"] + found["optimiser"] == pytest.approx(2 * n, abs=8)
        assert found["gathered weights"] == 2 * n
        assert state_bytes(config("parallel.sharding='full'"), self.space, 8)["gathered weights"] < 2 * n

    def test_replicas_share_among_fewer(self, config) -> None:
        one, two = (state_bytes(config(f"parallel.replicate={n}"), self.space, 8) for n in (1, 2))
        assert two["optimiser"] == pytest.approx(2 * one["optimiser"], abs=8)

    def test_gradients_that_wait_for_the_last_pass_stay_whole(self, config) -> None:
        once, twice = (state_bytes(config(f"data.accumulate={n}"), self.space, 8) for n in (1, 2))
        n = sum(p.numel() for p in AionModel(config().model.build(), self.space).parameters())
        assert twice["gradients not yet shared"] - once["gradients not yet shared"] == 4 * n


class TestRefusals:
    def test_too_little_memory_says_what_would_fit(self, refused, make_config, tmp_path) -> None:
        wide = ("model={dim=1024, encoder_depth=8, decoder_depth=8, num_heads=16}", "data.batch_size=16384",
                "masking={input_budget=256, target_budget=128}")  # fmt: skip
        error = refused(*wide, flags=("--gpus", "8"))
        assert "GiB on each GPU, and 8 × H100 SXM 80 GB have 79.1 GiB each; these would fit: " in error
        assert "data.batch_size = 1024 and data.accumulate = 16" in error
        config = TrainConfig.from_toml(make_config(), [*wide, "data.batch_size=1024", "data.accumulate=16"])
        space = TokenStore(tmp_path / "stores/store.arrow").space
        assert memory_per_gpu(config, space, 8, [3.0] * len(space))["total"] < find_gpu("h100").memory

    def test_a_model_that_fits_nowhere_says_so(self, refused) -> None:
        error = refused("model={dim=16384, encoder_depth=40, decoder_depth=40, num_heads=128}")
        assert "use more GPUs, or a smaller model" in error

    @pytest.mark.parametrize(
        ("changes", "flags", "message"),
        [
            ((), ("--gpus", "5"), "data.batch_size is 32, which 5 processes cannot share evenly"),
            (("parallel.replicate=3",), ("--gpus", "8"), "8 processes cannot form so many equal groups"),
            ((), ("--device", "h1000"), "Did you mean 'h100'?"),
            ((), ("--gpus", "0"), "expected one GPU or more"),
            ((), ("--mfu", "50"), "an MFU above 0 and up to 1"),
            (("loss.weights={test_nois=2.0}",), (), "Did you mean 'test_noise'?"),
            (("evaluate.conditional=[{target='test_d', given=['test_a']}]",), (), "No modality 'test_d'"),
        ],
    )
    def test_what_cannot_be_is_one_sentence(self, refused, changes, flags, message) -> None:
        assert message in refused(*changes, flags=flags)

    def test_a_model_larger_than_the_machine_is_one_sentence(self, make_store, make_config, tmp_path, capsys) -> None:
        make_store()
        assert main(["train", str(make_config()), "--set", "model.dim=4000000"]) == 2
        error = capsys.readouterr().err
        assert "The memory of this machine is too little" in error
        assert "aion train --dry-run" in error
        assert error.count("\n") == 1
        assert not (tmp_path / "run").exists()


def test_people_get_tables(make_store, make_config, capsys) -> None:
    make_store()
    assert main(["train", str(make_config()), "--dry-run", "--gpus", "8", "--set", "data.accumulate=2"]) == 0
    printed = capsys.readouterr().out
    for words in ("GPU-hours", "8 GPUs × 4 × 2 passes", "gathered weights", "test_noise", "share of samples"):
        assert words in printed


def test_tokens_are_counted_without_reading_one(make_store) -> None:
    store = TokenStore(make_store())
    found = token_counts([store, store])
    lengths = store.lengths(range(len(store)))
    assert found == {
        key: (2 * int((lengths[:, i] > 0).sum()), 2 * int(lengths[:, i].sum()))
        for i, key in enumerate(store.space.keys)
    }


def test_peaks_are_of_dense_bf16() -> None:
    assert {name: gpu.peak / 1e12 for name, gpu in GPUS.items()} == {"a100": 312, "h100": 989, "h200": 989}
