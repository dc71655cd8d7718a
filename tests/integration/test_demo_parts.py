"""What the demo is made of, where it can be told apart from the library."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest
import torch

from aion_core.cli.demo.judge import held_out_rows
from aion_core.cli.demo.learn import order_codes
from aion_core.cli.demo.memory import Memory
from aion_core.cli.demo.page import cell, page, table
from aion_core.cli.demo.question import LEFT_OUT, question_of
from aion_core.cli.demo.report import shortcomings
from aion_core.cli.demo.sky import yielding
from aion_core.cli.demo.stages import STAGES, time_left
from aion_core.cli.demo.views import SCATTER, SHARE, disturbed, places, write_views
from aion_core.contract import ModalitySpec, Provenance, ReaderSpec, Slot, TokenSpace, provenance_id
from aion_core.data import ObservationBatch, Reader
from aion_core.data.split import SplitConfig, split_mask
from aion_core.data.store import StoreWriter, TokenStore
from aion_core.data.survey_files import SurveyFiles
from aion_core.model import AionConfig, AionModel
from aion_core.observations import Scalar
from aion_core.plugins import LoadedPlugin, Registry

SPLIT = SplitConfig(fraction=0.3, order=11)


def spec(key: str, kind: str, shape: tuple[int, ...]) -> ModalitySpec:
    return ModalitySpec(
        key=key, survey="Test", title=key, citation="none", kind=kind, quantity="phot.flux", units="", vocab_size=1000,
        shape=shape, position="scalar" if shape == (1,) else "seq1d",
        provenance=Provenance(id=provenance_id(key), instrument="none", release="none"),
    )  # fmt: skip


@pytest.fixture
def joined(tmp_path: Path) -> TokenStore:
    """400 objects with a number, of which a tenth shares one code, and a spectrum that half of them have."""
    rng = np.random.default_rng(0)
    number, spectrum = rng.integers(100, 900, (400, 1)), rng.integers(0, 1000, (200, 20))
    number[::10] = 0
    space = TokenSpace(slots=(Slot(spec=spec("test_r", "scalar", (1,))), Slot(spec=spec("test_s", "spectrum", (20,)))))
    names = [f"o{i}" for i in range(400)]
    with StoreWriter(tmp_path / "joined.arrow", space) as writer:
        tokens = {"test_r": (number, np.arange(400)), "test_s": (spectrum, np.arange(0, 400, 2))}
        writer.write(names, rng.uniform(150, 152, 400), rng.uniform(0, 2, 400), tokens)
    return TokenStore(tmp_path / "joined.arrow")


def test_views_are_of_objects_that_are_not_held_out_and_disturb_numbers_but_nothing_else(joined, tmp_path: Path):
    write_views(joined, tmp_path / "views.arrow", 10, SPLIT)
    views = TokenStore(tmp_path / "views.arrow")
    train = ~split_mask(joined.healpix, joined.ids, SPLIT.fraction, SPLIT.order, SPLIT.seed)
    assert 0 < train.sum() < 400
    assert len(views) == 10 * train.sum()
    parents = np.array([int(name.partition("~")[0][1:]) for name in views.ids.to_pylist()])
    assert train[parents].all()
    np.testing.assert_array_equal(views.healpix, joined.healpix[parents])
    before, after = joined.tokens(parents), views.tokens(np.arange(len(views)))
    place = places(np.bincount(joined.tokens(np.flatnonzero(train))["test_r"].ravel(), minlength=1000))
    apart = (place[after["test_r"]] - place[before["test_r"]])[before["test_r"] > 0]
    assert apart.std() == pytest.approx(SCATTER, rel=0.1)
    assert (after["test_r"][before["test_r"] == 0] == 0).all()
    shown = after["test_s"][:, 0] >= 0
    np.testing.assert_array_equal(after["test_s"][shown], before["test_s"][shown])
    assert shown[before["test_s"][:, 0] >= 0].mean() == pytest.approx(SHARE, abs=0.06)
    write_views(joined, tmp_path / "judged.arrow", 2, SPLIT, held_out=True)
    judged = TokenStore(tmp_path / "judged.arrow")
    parents_there = np.array([int(name.partition("~")[0][1:]) for name in judged.ids.to_pylist()])
    np.testing.assert_array_equal(np.unique(parents_there), np.flatnonzero(~train))
    np.testing.assert_array_equal(
        judged.tokens(np.arange(len(judged)))["test_r"], joined.tokens(parents_there)["test_r"]
    )
    per_object = [shown[parents == parent].sum() for parent in np.unique(parents[shown])]
    assert len(set(per_object)) > 3  # drawn for each view anew


def test_disturbed_codes_stay_in_the_codebook_and_absent_ones_absent():
    codes = np.array([[0], [999], [-1], [500]] * 200)
    rng = np.random.default_rng(1)
    moved = disturbed(codes, np.ones(1000, np.int64), rng)
    assert moved.min() == -1
    assert moved.max() == 999
    assert ((moved < 0) == (codes < 0)).all()


def test_codes_are_as_far_apart_as_objects_lie_between():
    crowded = np.where(np.arange(1000) < 100, 90, 1)
    place = places(crowded)
    assert (np.diff(place) > 0).all()
    assert 0 < place[0] < place[-1] < 1
    assert place[99] == pytest.approx(0.9 * 0.909 + 0.01, abs=0.01)

    def spread(uses: np.ndarray, code: int) -> float:
        codes = np.full((4001, 1), code)
        codes[-1] = 999  # no code is above the highest of all
        return float(disturbed(codes, uses, np.random.default_rng(0))[:-1].std())

    assert spread(crowded, 600) > 10 * spread(crowded, 50)
    assert spread(np.ones(1000, np.int64), 500) == pytest.approx(1000 * SCATTER, rel=0.05)
    np.testing.assert_allclose(places(np.zeros(10, np.int64)), (np.arange(10) + 0.5) / 10)


class Codes:
    """A tokenizer, as far as where its codes lie is concerned."""

    def __init__(self, vectors: torch.Tensor | None) -> None:
        self.vectors = vectors

    def code_vectors(self) -> torch.Tensor | None:
        return self.vectors


def test_codes_that_stand_for_nearly_the_same_begin_alike_and_others_as_they_were(tmp_path: Path):
    kinds = ("scalar", "spectrum", "coefficients")
    specs = tuple(spec(f"test_{kind}", kind, (20,) if kind != "scalar" else (1,)) for kind in kinds)
    space = TokenSpace(slots=tuple(Slot(spec=one) for one in specs))
    model, as_it_was = (
        AionModel(AionConfig(dim=32, encoder_depth=1, decoder_depth=1, num_heads=2), space) for _ in "ab"
    )
    bits = (torch.arange(512)[:, None] >> torch.arange(9)) % 2  # fewer codes than the vocabulary has
    given = {"test_scalar": torch.linspace(0, 1, 1000)[:, None], "test_spectrum": bits.float()}
    with StoreWriter(tmp_path / "numbers.arrow", TokenSpace(slots=space.slots[:1])) as writer:
        every = np.arange(1000)
        writer.write(every.astype(str), np.zeros(1000), np.zeros(1000), {"test_scalar": (every[:, None], every)})
    numbers = TokenStore(tmp_path / "numbers.arrow")
    order_codes(model, {spec.key: Codes(given.get(spec.key)) for spec in specs}, numbers, 0)
    for side, name in (("encoder_embeddings", "token_emb"), ("decoder_embeddings", "to_logits")):
        tables, before = (
            {key: getattr(own, name).weight.detach() for key, own in getattr(m, side).items()}
            for m in (model, as_it_was)
        )
        number = tables["test_scalar"]
        near, far = ((number[k:] - number[:-k]).norm(dim=1).mean() for k in (1, 300))
        assert near < 0.1 * far
        signs = tables["test_spectrum"][:512]
        neighbours = (signs[0::2] - signs[1::2]).norm(dim=1).mean()  # one sign apart
        assert neighbours < 0.9 * (signs - signs.flip(0)).norm(dim=1).mean()  # all nine apart
        assert torch.equal(tables["test_spectrum"][512:], before["test_spectrum"][512:])
        assert torch.equal(tables["test_coefficients"], before["test_coefficients"])
    told = [model.encoder_embeddings[spec.key].mod_emb.detach() for spec in specs]
    assert min(one.std() for one in told) > 0.5
    assert not torch.equal(told[0], told[1])


def facts(**changes):
    good = {
        "tokenizers": [{"key": "a", "percent": 30.0, "r2": 0.9}],
        "held_out": [{"target": "a", "loss": 2.0, "entropy": 3.0}],
        "narrowing": [
            {"given": "photometry", "nll": -1.0, "crps": 0.05, "coverage": 0.7},
            {"given": "+ image", "nll": -1.5, "crps": 0.04, "coverage": 0.61},
        ],
        "probes": [{"property": "mass", "r2_embeddings": 0.8, "r2_photometry": 0.7}],
    }
    return good | changes


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, None),
        ({"tokenizers": [{"key": "a", "percent": 9.0, "r2": None}]}, "perplexity below 10 % of V: a 9.0 %"),
        ({"tokenizers": [{"key": "a", "percent": 11.0, "r2": 0.79}]}, "below 0.8: a 0.790"),
        ({"tokenizers": [{"key": "a", "percent": 11.0, "r2": 0.9, "r2_scaled": 0.7}]}, "below 0.8: a 0.700"),
        ({"tokenizers": [{"key": "a", "percent": 11.0, "r2": 0.1, "r2_scaled": 0.9}]}, None),
        ({"held_out": [{"target": "a", "loss": 3.1, "entropy": 3.0}]}, "a 3.10 (3.00)"),
        ({"narrowing": []}, "No posterior is shown"),
        ({"probes": [{"property": "mass", "r2_embeddings": 0.6, "r2_photometry": 0.7}]}, "A probe for mass"),
    ],
)
def test_the_report_says_what_falls_short_and_nothing_else(changes, said):
    found = list(shortcomings(facts(**changes)))
    assert len(found) == (said is not None)
    assert said is None or said in found[0]


def test_a_posterior_that_widens_or_covers_too_much_is_told_by_step():
    steps = (("photometry", -1.0, 0.05, 0.8), ("+ image", -0.9, 0.04, 0.7), ("+ s", -2.0, 0.06, 0.5))
    rows = [dict(zip(("given", "nll", "crps", "coverage"), step, strict=True)) for step in steps]
    found = " ".join(shortcomings(facts(narrowing=rows)))
    assert "NLL of the redshift does not fall at photometry → + image: -1.0000, -0.9000" in found
    assert "CRPS of the redshift does not fall at + image → + s: 0.0400, 0.0600" in found
    assert "given photometry holds the truth of 80 %" in found
    assert "given + s holds the truth of 50 %" in found


def test_what_is_left_is_told_from_what_was_needed_so_far() -> None:
    assert time_left("mock sky", {}) is None
    spent = {name: 480 * share for name, share in STAGES.items()}
    for stage in list(STAGES)[1:]:
        later = sum(list(spent.values())[list(STAGES).index(stage) :])
        assert time_left(stage, spent) == pytest.approx(later)
    assert time_left("tokens", {"networks": 100.0}) == pytest.approx(100 / 0.45 * 0.55)  # a mock sky that was there


def test_the_page_escapes_what_files_and_errors_say():
    text = page(
        "A & B", "<note>", [("one", [table([{"k": "<x>", "v": 0.12345}], {"k": "key", "v": "value"})]), ("", [""])]
    )
    assert "&lt;x&gt;" in text
    assert "<x>" not in text
    assert "&lt;note&gt;" in text
    assert "0.123" in text
    assert text.count("<h2>") == 1


def test_numbers_stand_in_tables_as_people_write_them():
    assert [cell(v) for v in (None, True, 12345, 0.00012345, 123456.7, "x")] == [
        "–", "yes", "12,345", "0.000123", "123,457", "x",
    ]  # fmt: skip


class TwoKinds(Reader):
    """60 numbers a file, and every third of them again as another modality."""

    def claims(self, path: Path) -> bool:
        return True

    def read(self, path: Path, batch_size: int) -> Iterator[ObservationBatch]:
        value = np.arange(60.0) + 100 * int(path.stem)
        for start in range(0, 60, batch_size):
            x = value[start : start + batch_size]
            third = np.flatnonzero(x % 3 == 0)
            data = {"test_r": (Scalar(x), np.arange(len(x))), "test_t": (Scalar(x[third]), third)}
            yield ObservationBatch(x.astype(int).astype(str), x * 37 % 360, x * 7 % 120 - 60, data)


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    sys.modules.setdefault("readers_of_test_demo_parts", sys.modules[__name__])
    readers = tuple(
        ReaderSpec(
            name=f"test_{end}", title=end, patterns=(f"*.{end}",), reader=f"readers_of_test_demo_parts:{reader}",
            modalities=keys,
        )
        for end, reader, keys in (("two", "TwoKinds", ("test_r", "test_t")), ("other", "Unwanted", ("test_u",)))
    )  # fmt: skip
    for name in ("1.two", "2.two", "3.other"):
        (tmp_path / name).write_text("rows")
    return Registry(
        MappingProxyType({}), readers, (), (LoadedPlugin("test", "aion-tok-test", "1", 0.0, (), readers),), ()
    )


class Unwanted(TwoKinds):
    def read(self, path: Path, batch_size: int) -> Iterator[ObservationBatch]:
        raise AssertionError("a file of which nothing is wanted was read")


def test_batches_from_memory_are_of_no_held_out_object_and_depend_on_the_step_alone(tmp_path: Path, registry) -> None:
    files = yielding(SurveyFiles([tmp_path], registry), registry, ["test_t", "test_r"])
    assert [path.name for path, _ in files.files] == ["1.two", "2.two"]
    memory = Memory(files, ["test_r", "test_t"], 6, 5, seed=1)
    judged = dict(memory.held_out(5))
    assert [len(judged[key]) for key in ("test_r", "test_t")] == [5, 5]
    found = list(islice(memory.batches(), 40))
    assert all([key for key, _ in batch.observations] == ["test_r", "test_t"] for batch, _ in found)
    assert all(len(obs) == 3 for batch, _ in found for _, obs in batch.observations)
    for key in judged:
        seen = {float(v) for batch, _ in found for v in dict(batch.observations)[key].value.flatten()}
        assert len(seen) > 20
        assert seen.isdisjoint(judged[key].value.flatten().tolist())
    first = found[10][0]
    assert first.names == tuple(str(int(v)) for _, obs in first.observations for v in obs.value.flatten())
    again, _ = next(Memory(files, ["test_r", "test_t"], 6, 5, seed=1).batches(found[9][1]))
    assert again.names == first.names


def test_the_question_is_asked_of_no_held_out_object_and_depends_on_the_step_alone(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    z = spec("test_z", "scalar", (1,)).model_copy(update={"quantity": "src.redshift"})
    specs = (z, spec("test_r", "scalar", (1,)), spec("test_s", "spectrum", (20,)))
    space = TokenSpace(slots=tuple(Slot(spec=one) for one in specs))
    number = rng.integers(0, 1000, (300, 1))
    answer = np.where(np.arange(300)[:, None] % 3 == 0, -1, number)  # a third has no redshift
    with StoreWriter(tmp_path / "joined.arrow", space) as writer:
        every = np.arange(300)
        tokens = {"test_z": (answer, every), "test_r": (number, every), "test_s": (np.repeat(number, 20, 1), every)}
        writer.write([f"o{i}" for i in every], rng.uniform(150, 152, 300), rng.uniform(0, 2, 300), tokens)
    joined = TokenStore(tmp_path / "joined.arrow")
    question = question_of(joined, space)
    assert question is not None
    assert (question.target, question.given) == ("test_z", (("test_r",), ("test_r", "test_s")))
    assert not held_out_rows(joined)[question.rows].any()
    assert (answer[question.rows] >= 0).all()
    numbers = []
    kept = set(number[question.rows, 0].tolist())
    for step in range(6):
        batch = question.batch(16, step, seed=1)
        again = question.batch(16, step, seed=1)
        fewer = replace(question, uses={"test_r": question.uses["test_r"]}).batch(16, step, seed=1)
        assert torch.equal(batch.input_code, again.input_code)
        assert torch.equal(batch.input_code, fewer.input_code)  # each key by itself: sets have no order
        assert batch.target_counts == (16, 0, 0)
        assert batch.input_slot.shape[1] <= (1 if step % 3 == 0 else 21)
        numbers.append(int((batch.input_slot == 1).sum()))
        if step % 3:
            whole = batch.input_code[batch.input_slot == 2]
            assert set(whole.tolist()) <= kept  # spectra are as they are
            assert abs(len(whole) / (16 * 20) - (1 - LEFT_OUT["spectrum"])) < 0.1  # but many of each are left out
    assert 0 < numbers[0] < 16  # some numbers are left out
    assert sum(numbers[1:3] + numbers[4:]) < 2 * (numbers[0] + numbers[3])  # and more where spectra are to be looked at
    assert not torch.equal(question.batch(16, 0, 1).target_code, question.batch(16, 3, 1).target_code)
    assert question_of(joined, TokenSpace(slots=space.slots[1:])) is None
    assert question_of(joined, TokenSpace(slots=space.slots[:1])) is None
