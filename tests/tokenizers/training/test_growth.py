"""A network gets new bands in training, alone or with the rest; from a source that knows nothing of files."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
import torch

from aion_core.contract import AionError, Band, ModalitySpec, Provenance, TokenizerSpec, provenance_id
from aion_core.engine import World
from aion_core.observations import Image
from aion_core.tokenizers import TokenizerSet
from aion_core.tokenizers.training import TokenizerConfig, TokenizerTrainer, TrainingBatch
from aion_core.tokenizers.training.beginning import begin

NETWORK = {"hidden_dims": 8, "num_consecutive": 1, "quantizer_levels": [5, 5], "multisurvey_projection_dims": 6}


def make_spec(name: str, bands: tuple[str, ...]) -> ModalitySpec:
    key = f"demo_{name}"
    declared = tuple(Band(name=b, limit=50.0, zero_point=22.5, pixel_scale=0.2) for b in bands)
    return ModalitySpec(
        key=key, upstream_codec="demo", survey="Demo", title=name, citation="none", kind="image",
        quantity="phot.flux", units="", vocab_size=25, shape=(4, 4), position="grid2d",
        provenance=Provenance(id=provenance_id(key), instrument="none", release="none"),
        tokenizer=TokenizerSpec(path="aion_core.tokenizers.image:ImageTokenizer", config=NETWORK, bands=declared),
    )  # fmt: skip


OLD, NEW = make_spec("old", ("G", "R")), make_spec("new", ("U", "Y"))


def images(bands: tuple[str, ...], count: int = 4, seed: int = 0) -> Image:
    generator = torch.Generator().manual_seed(seed)
    flux = torch.randn(count, len(bands), 16, 16, generator=generator)
    return Image(flux, bands, ivar=torch.ones_like(flux))


class Always:
    """Satisfies `ObservationSource`: the same few images again and again."""

    def __init__(self, *observations: tuple[str, Image]) -> None:
        self.observations = observations

    def batches(self, position: Any = None) -> Generator[tuple[TrainingBatch, dict[str, Any]], None, None]:
        names = tuple("image" for _, obs in self.observations for _ in range(len(obs)))
        drawn = position["0"] if position else 0
        while True:
            drawn += 1
            yield TrainingBatch(self.observations, names), {"0": drawn}

    def held_out(self, limit: int) -> tuple[tuple[str, Image], ...]:
        return self.observations


def config(folder: Path, **more: Any) -> TokenizerConfig:
    values = {
        "run": {"folder": str(folder), "precision": "fp32", "device": "cpu"},
        "optimizer": {"steps": 4, "lr": 1e-2, "weight_decay": 0.1},
        "evaluate": {"page": 0},
        "data": {"batch_size": 4},
    }
    return TokenizerConfig.model_validate(values | more)


def train(settings: TokenizerConfig, tokenizers: list[Any], source: Always) -> TokenizerTrainer:
    trainer = TokenizerTrainer(settings, tokenizers, source, World(0, 1, torch.device("cpu")))
    trainer.run()
    return trainer


@pytest.fixture
def base(tmp_path: Path) -> TokenizerSet:
    settings = config(tmp_path / "base")
    return TokenizerSet(
        train(settings, begin([OLD], settings), Always(("demo_old", images(("G", "R"))))).tokenizers.values()
    )


@pytest.mark.parametrize("train_only", ["new", "all"])
def test_new_bands_are_trained_alone_or_with_the_rest(base, tmp_path, train_only) -> None:
    old = base["demo_old"]
    before, tokens = old.fingerprint, old.encode(images(("G", "R"), 8, seed=3))
    settings = config(tmp_path / "grown", train_only=train_only)
    (new,) = begin([NEW], settings, base, grow=True)
    assert new.bands == ("U", "Y")
    start = {name: p.detach().clone() for name, p in new.trainable_parameters(only_new=True).items()}
    train(settings, [new], Always(("demo_new", images(("U", "Y"), seed=1))))
    changed = new.trainable_parameters(only_new=True)
    assert start
    assert any(not torch.equal(start[name], p) for name, p in changed.items())
    same = old.fingerprint == before and torch.equal(old.encode(images(("G", "R"), 8, seed=3)), tokens)
    assert same == (train_only == "new")


def test_growing_by_nothing_new_goes_on_as_it_is(base, tmp_path) -> None:
    old = base["demo_old"]
    (again,) = begin([OLD], config(tmp_path / "again"), base, grow=True)
    assert again.fingerprint == old.fingerprint


def test_a_training_of_what_is_new_resumes(base, tmp_path) -> None:
    settings = config(tmp_path / "grown", train_only="new")
    (new,) = begin([NEW], settings, base, grow=True)
    source = Always(("demo_new", images(("U", "Y"), seed=1)))
    first = train(settings, [new], source)
    again = TokenizerTrainer(settings, [new], source, World(0, 1, torch.device("cpu")))
    assert again.step == first.step == 4
    assert again.run().finished


def test_images_lose_the_same_bands_in_a_run_that_is_done_again(tmp_path) -> None:
    def weights(folder: str, share: float) -> torch.Tensor:
        data = {"batch_size": 4, "band_dropout": share}
        tokenizers = begin([OLD], config(tmp_path, network=NETWORK))
        trained = train(config(tmp_path / folder, data=data), tokenizers, Always(("demo_old", images(("G", "R")))))
        return torch.cat([p.detach().flatten() for p in trained.lead.parameters()])

    assert torch.equal(weights("first", 0.5), weights("again", 0.5))
    assert not torch.equal(weights("first", 0.5), weights("whole", 0.0))


def test_what_cannot_be_begun_is_a_sentence(base, tmp_path) -> None:
    settings = config(tmp_path / "x")
    with pytest.raises(AionError, match=r"has none for demo_new \(it has demo_old\); --grow"):
        begin([NEW], settings, base)
    sizes = base["demo_old"].artifact().config
    assert begin([OLD], config(tmp_path / "x", network={"hidden_dims": sizes["hidden_dims"]}), base)
    with pytest.raises(AionError, match=rf"network\.hidden_dims is {sizes['hidden_dims']} in the network of --from"):
        begin([OLD], config(tmp_path / "x", network={"hidden_dims": sizes["hidden_dims"] + 1}), base)
    scalar = make_spec("number", ("G",)).model_copy(
        update={"tokenizer": TokenizerSpec(path="aion_core.tokenizers.scalar:QuantileTokenizer")}
    )
    with pytest.raises(AionError, match="different classes"):
        begin([OLD, scalar], settings)
    with pytest.raises(AionError, match="no network that could be grown by demo_number"):
        begin([scalar], settings, base, grow=True)
