"""What the loader promises: tokens as stored, masks that depend on nothing but the sample, and exact resume."""

from __future__ import annotations

import threading
from dataclasses import fields
from itertools import islice

import numpy as np
import pytest
import torch

from aion_core.contract import SEQUENCE_IDS, AionError, InputError, TokenSpace, TokenSpaceError
from aion_core.data.batches import TokenBatch, conditional_batch, n_positions
from aion_core.data.loader import TokenLoader
from aion_core.data.masking import MaskingConfig
from aion_core.data.split import SplitConfig
from aion_core.data.store import StoreWriter, TokenStore

SMALL = MaskingConfig(input_budget=24, target_budget=16)
TENSORS = [f.name for f in fields(TokenBatch) if f.name.startswith(("input_", "target_", "index"))]


def take(loader: TokenLoader, n: int, **position) -> list[TokenBatch]:
    stream = loader.batches(**position)
    batches = [batch for batch, _ in islice(stream, n)]
    stream.close()
    return batches


def sides(batch: TokenBatch):
    """Input, then target: code, slot and position as arrays ``[B, N]``."""
    yield batch.input_code.numpy(), batch.input_slot.numpy(), batch.input_position.numpy()
    yield batch.target_code.numpy(), batch.target_slot.numpy(), batch.target_position.numpy()


def same(a: TokenBatch, b: TokenBatch, rows_a=slice(None), rows_b=slice(None)) -> bool:
    per_row = [name for name in TENSORS if name not in ("target_order", "target_counts", "input_full", "target_full")]
    return all(torch.equal(getattr(a, name)[rows_a], getattr(b, name)[rows_b]) for name in per_row)


def equal(a: TokenBatch, b: TokenBatch) -> bool:
    whole = a.target_counts == b.target_counts and torch.equal(a.target_order, b.target_order)
    return whole and (a.input_full, a.target_full) == (b.input_full, b.target_full) and same(a, b)


@pytest.fixture(scope="module")
def stores(space, make_space, write_store, tmp_path_factory):
    """Three stores: everything; fewer modalities in another order; one modality."""
    folder = tmp_path_factory.mktemp("stores")
    some = make_space(space["test_sources"].spec, space["test_r"].spec, space["test_wide"].spec)
    one = make_space(space["test_image"].spec)
    return [
        write_store(folder / "a.arrow", space, 300, seed=1, name="a"),
        write_store(folder / "b.arrow", some, 200, seed=2, present=0.5, name="b"),
        write_store(folder / "c.arrow", one, 77, seed=3, name="c"),
    ]


@pytest.fixture(scope="module")
def opened(stores) -> list[TokenStore]:
    return [store for store, _ in stores]


def test_every_token_of_a_batch_is_the_stored_one(stores, opened, space) -> None:
    written = [codes for _, codes in stores]
    first = np.cumsum([0] + [len(store) for store in opened])
    for batch in take(TokenLoader(opened, space, 32, SMALL, seed=5), 20):
        for code, slot, position in sides(batch):
            for row, column in zip(*np.nonzero(slot >= 0), strict=True):
                spec = space.slots[slot[row, column]].spec
                if spec.order == "causal":
                    continue
                sample = int(batch.index[row])
                store = int(np.searchsorted(first, sample, side="right")) - 1
                expected = written[store][spec.key][sample - first[store], position[row, column]]
                assert code[row, column] == expected
        padding = [
            (code[slot < 0] == 0).all() and (position[slot < 0] == 0).all() for code, slot, position in sides(batch)
        ]
        assert all(padding)
        assert (batch.target_input[batch.target_slot < 0] == -1).all()


def test_a_sequence_is_put_together_again_from_input_and_target(stores, opened, space) -> None:
    written = [codes for _, codes in stores]
    first = np.cumsum([0] + [len(store) for store in opened])
    slot, checked = space.index("test_sources"), 0
    for batch in take(TokenLoader(opened, space, 64, MaskingConfig(), seed=5), 10):
        for row, sample in enumerate(batch.index.tolist()):
            asked = batch.target_slot[row] == slot
            labels, previous = batch.target_code[row, asked].tolist(), batch.target_input[row, asked].tolist()
            if not labels:
                continue
            assert previous[1:] == labels[:-1]
            assert batch.target_position[row, asked].tolist() == list(range(len(labels)))
            if labels[-1] != SEQUENCE_IDS.end:
                continue
            runs: dict[int, list[int]] = {}
            for code in [previous[0], *labels[:-1]]:
                if code < SEQUENCE_IDS.first_code:
                    runs[code] = []
                else:
                    runs[next(reversed(runs))].append(code)
            shown = batch.input_code[row, batch.input_slot[row] == slot].tolist() or list(runs)
            whole = [c for code in shown for c in (runs[code] if code < SEQUENCE_IDS.first_code else [code])]
            store = int(np.searchsorted(first, sample, side="right")) - 1
            codes = written[store]["test_sources"][sample - first[store]]
            assert whole == codes[codes >= 0].tolist()
            checked += 1
    assert checked > 100


def test_target_order_and_counts_list_the_targets_slot_by_slot(opened, space) -> None:
    for batch in take(TokenLoader(opened, space, 16, SMALL, seed=1), 5):
        slot = batch.target_slot.flatten()
        assert sum(batch.target_counts) == len(batch.target_order) == int((slot >= 0).sum())
        ordered = slot[batch.target_order]
        assert torch.equal(ordered, ordered.sort(stable=True).values)
        assert torch.equal(torch.bincount(ordered, minlength=len(space)), torch.tensor(batch.target_counts))
        for row in batch.target_slot:
            valid = row[row >= 0]
            assert torch.equal(row[: len(valid)], valid.sort().values), "padding is not last, or slots are not sorted"
        assert batch.input_full == bool((batch.input_slot >= 0).all())
        assert batch.target_full == bool((batch.target_slot >= 0).all())
        assert ((batch.target_slot >= 0).any(dim=1)).all(), "a sample without target"


def test_an_epoch_visits_every_object_that_has_tokens_once(stores, opened, space) -> None:
    loader = TokenLoader(opened, space, 1, SMALL, prefetch=0)
    having = [np.logical_or.reduce([(c >= 0).any(axis=1) for c in codes.values()]) for _, codes in stores]
    expected = np.flatnonzero(np.concatenate(having))
    assert len(loader) == len(expected) < sum(map(len, opened))
    assert sorted(int(batch.index[0]) for batch in take(loader, len(loader))) == expected.tolist()


@pytest.mark.parametrize("prefetch", [0, 1, 3])
def test_a_resumed_loader_goes_on_exactly(prefetch, opened, space) -> None:
    weights = {"x": 3.0, "y": 1.0}
    groups = {"x": opened[:2], "y": opened[2:]}
    loader = TokenLoader(groups, space, 40, SMALL, seed=8, weights=weights, prefetch=prefetch)
    stream = loader.batches()
    seen, positions = zip(*islice(stream, 40), strict=True)
    stream.close()
    assert positions[-1]["epoch"] >= 1
    for done in (1, 7, 30):
        again = TokenLoader(groups, space, 40, SMALL, seed=8, weights=weights, prefetch=0)
        for a, b in zip(take(again, 3, **positions[done - 1]), seen[done : done + 3], strict=True):
            assert equal(a, b)


def test_the_samples_and_masks_do_not_depend_on_the_number_of_ranks(opened, space) -> None:
    alone = take(TokenLoader(opened, space, 24, SMALL, seed=2), 6)
    for world in (2, 3, 4):
        size = 24 // world
        for rank in range(world):
            part = take(TokenLoader(opened, space, size, SMALL, seed=2, world_size=world, rank=rank), 6)
            for whole, mine in zip(alone, part, strict=True):
                assert same(whole, mine, slice(rank * size, (rank + 1) * size))


def test_the_mask_of_a_sample_does_not_depend_on_its_batch(opened, space) -> None:
    small, large = (TokenLoader(opened, space, n, SMALL, seed=2) for n in (7, 70))
    parts, whole = take(small, 10), take(large, 1)[0]
    for i, part in enumerate(parts):
        assert same(part, whole, slice(None), slice(7 * i, 7 * i + 7))


def test_a_sample_met_again_is_masked_anew(opened, space) -> None:
    loader = TokenLoader(opened, space, 64, SMALL, seed=2)
    first, second = ({int(i): row for row, i in enumerate(b.index)} for b in (loader.batch(0, 0), loader.batch(1, 0)))
    batches = loader.batch(0, 0), loader.batch(1, 0)
    met = [(a, second[i]) for i, a in first.items() if i in second]
    assert met
    assert any(not torch.equal(batches[0].target_code[a], batches[1].target_code[b]) for a, b in met)
    groups = {"large": opened[:1], "small": opened[2:]}
    mixed = TokenLoader(groups, space, 100, SMALL, seed=2, weights={"large": 1.0, "small": 2.0}, prefetch=0)
    masks: dict[int, list[bytes]] = {}
    for batch in take(mixed, len(mixed) // 100):
        for row, i in enumerate(batch.index.tolist()):
            masks.setdefault(i, []).append(batch.input_position[row].numpy().tobytes())
    twice = TokenLoader({"x": opened[:1], "y": opened[:1]}, space, len(opened[0]), SMALL, prefetch=0)
    seen = {int(i): b.input_position[row] for b in take(twice, 2) for row, i in enumerate(b.index)}
    assert np.mean([torch.equal(seen[i], seen[i + 300]) for i in range(300) if i in seen and i + 300 in seen]) < 0.2
    laps = [seen for seen in masks.values() if len(seen) > 1]
    assert np.mean([len(set(seen)) == len(seen) for seen in laps]) > 0.9


def test_weights_set_the_share_of_each_group(opened, space) -> None:
    groups = {"x": [opened[0]], "y": [opened[2]]}
    loader = TokenLoader(groups, space, 50, SMALL, weights={"x": 1.0, "y": 4.0})
    index = torch.cat([batch.index for batch in take(loader, 40)])
    assert (index < len(opened[0])).double().mean() == pytest.approx(0.2, abs=0.02)
    with pytest.raises(AionError, match=r"Weights are given for \['x'\]"):
        TokenLoader(groups, space, 50, SMALL, weights={"x": 1.0})


def test_the_two_sides_of_the_split_share_no_object_and_miss_none(opened, space) -> None:
    split = SplitConfig(fraction=0.3, order=3)
    sides = [
        TokenLoader(opened, space, 1, SMALL, split=side, split_config=split, prefetch=0)
        for side in ("train", "validation")
    ]
    train, validation = ({int(b.index[0]) for b in take(loader, len(loader))} for loader in sides)
    assert not train & validation
    assert len(train) + len(validation) == len(TokenLoader(opened, space, 1, SMALL))
    assert 0.15 < len(validation) / (len(train) + len(validation)) < 0.45
    pixels = np.concatenate([store.healpix for store in opened]) >> 52
    assert not set(pixels[sorted(train)]) & set(pixels[sorted(validation)])


def test_modalities_that_the_model_lacks_are_an_error_unless_ignored(opened, space) -> None:
    fewer = space.select(["test_r", "test_image"])
    with pytest.raises(AionError, match=r"a\.arrow has tokens of test_wide, test_sources, test_g"):
        TokenLoader(opened, fewer, 8, SMALL)
    loader = TokenLoader(opened, fewer, 8, SMALL, ignore=["test_wide", "test_sources", "test_g"])
    assert {int(s) for b in take(loader, 30) for s in b.target_slot.unique()} == {-1, 0, 1}


def test_slots_are_found_by_key_or_by_the_releases_key(make_spec, make_space, write_store, tmp_path) -> None:
    ours = make_spec("test_z", 10, (1,), "scalar", upstream_key="tok_z")
    theirs = make_spec("tok_z", 10, (1,), "scalar").model_copy(update={"provenance": ours.provenance})
    other = make_spec("test_a", 10, (1,), "scalar")
    for stored, model in ((ours, theirs), (theirs, ours)):
        store, codes = write_store(tmp_path / "a.arrow", make_space(stored), 50, present=1.0)
        batch = take(TokenLoader([store], make_space(other, model), 50, SMALL), 1)[0]
        assert batch.target_slot.max() == 1
        assert batch.target_code[:, 0].tolist() == codes[stored.key][batch.index.numpy(), 0].tolist()


def test_tokens_of_another_tokenizer_are_refused_unless_accepted(make_spec, make_space, write_store, tmp_path) -> None:
    spec = make_spec("test_r", 10, (1,), "scalar")
    store, _ = write_store(tmp_path / "a.arrow", make_space(spec, fingerprint="a" * 64), 20)
    space = make_space(spec, fingerprint="b" * 64)
    with pytest.raises(TokenSpaceError, match=r"a\.arrow: test_r: tokens were made by another tokenizer"):
        TokenLoader([store], space, 8)
    TokenLoader([store], space, 8, accept=["test_r"])


def test_faults_are_named(opened, space) -> None:
    loader = TokenLoader(opened, space, 8, SMALL, seed=3)
    with pytest.raises(AionError, match="seed 4, but this loader's is 3"):
        next(loader.batches(epoch=0, index=0, seed=4))
    with pytest.raises(AionError, match="not one row"):
        TokenLoader(opened, space, 8, SMALL, split="validation", split_config=SplitConfig(fraction=0.0))
    with pytest.raises(AionError, match="Rank 2 of 2"):
        TokenLoader(opened, space, 8, SMALL, world_size=2, rank=2)


def test_a_fault_while_reading_ahead_reaches_the_reader(space, write_store, tmp_path) -> None:
    store, _ = write_store(tmp_path / "a.arrow", space, 50)
    loader = TokenLoader([store], space, 8, SMALL, prefetch=2)

    def broken(rows):
        raise InputError("the disk is gone")

    store.spans = broken
    with pytest.raises(InputError, match="the disk is gone"):
        next(loader.batches())


def test_tokens_that_lie_outside_a_damaged_file_are_not_read(make_spec, make_space, tmp_path) -> None:
    space = make_space(make_spec("test_image", 9, (36,)))
    with StoreWriter(tmp_path / "a.arrow", space) as writer:
        place = np.full(3, np.nan)
        writer.write(["a", "b", "c"], place, place, {"test_image": (np.full((3, 36), 7, np.int32), np.arange(3))})
    data = bytearray((tmp_path / "a.arrow").read_bytes())
    offsets = np.array([0, 36, 72, 108], np.int32)
    assert data.count(offsets.tobytes()) == 1
    at = data.index(offsets.tobytes())
    for shift in (10**9, -(10**9)):
        data[at : at + 16] = (offsets + np.int32(shift)).tobytes()
        path = tmp_path / f"{shift}.arrow"
        path.write_bytes(data)
        with pytest.raises(InputError, match=r"damaged, tokens lie outside the file"):
            TokenLoader([TokenStore(path)], space, 3, prefetch=0).batch(0, 0)


def test_an_object_of_any_composition_makes_a_batch(make_spec, make_space, write_store, tmp_path) -> None:
    """Empty lists, which other tools may write, included."""
    space = make_space(make_spec("test_s", 999, (20,), order="causal"), make_spec("test_r", 9, (1,), "scalar"))
    path = tmp_path / "a.arrow"
    with StoreWriter(path, space) as writer:
        codes = np.full((4, 20), -1)
        codes[1, :5], codes[2, :20] = 300, 400
        writer.write(list("abcd"), [0] * 4, [0] * 4, {"test_s": (codes, range(4)), "test_r": ([[3]], [3])})
    loader = TokenLoader([TokenStore(path)], space, 3, MaskingConfig(target_budget=6))
    assert len(loader) == 3
    for batch in take(loader, 30):
        assert (batch.target_slot >= 0).any(dim=1).all()


# --- whole modalities ---


def test_a_conditional_batch_gives_and_asks_whole_modalities(space, draw_codes) -> None:
    codes = draw_codes(space, 6, np.random.default_rng(0), present=0.6)
    batch = conditional_batch(codes, ["test_image", "test_sources"], ["test_g", "test_r"], space)
    in_slot_order = [["test_image", "test_sources"], ["test_r", "test_g"]]
    for (code, slot, position), keys in zip(sides(batch), in_slot_order, strict=True):
        for row in range(6):
            given = [codes[key][row][codes[key][row] >= 0] for key in keys]
            assert code[row][slot[row] >= 0].tolist() == np.concatenate(given).tolist()
            assert position[row][slot[row] >= 0].tolist() == [p for g in given for p in range(len(g))]
    assert (batch.target_input == -1).all()
    with pytest.raises(InputError, match="test_r cannot be both"):
        conditional_batch(codes, ["test_r"], ["test_r"], space)


def test_a_conditional_sequence_is_teacher_forced_to_its_end(space) -> None:
    codes = np.full((3, 20), -1)
    codes[0, :5], codes[1] = np.arange(300, 305), np.arange(500, 520)
    tokens = {
        "test_sources": torch.from_numpy(codes),
        "test_r": np.ones((3, 1), int),
        "test_image": np.ones((3, 36), int),
    }
    batch = conditional_batch(tokens, ["test_r"], ["test_sources", "test_image"], space)
    slot, end, start = space.index("test_sources"), SEQUENCE_IDS.end, SEQUENCE_IDS.first_sentinel
    for row, sequence in ((0, codes[0, :5].tolist()), (1, codes[1].tolist())):
        asked = batch.target_slot[row] == slot
        assert batch.target_code[row, asked].tolist() == [*sequence, end]
        assert batch.target_input[row, asked].tolist() == [start, *sequence]
        assert batch.target_position[row, asked].tolist() == list(range(len(sequence) + 1))
    assert (batch.target_slot[2, 36:] == -1).all()
    assert (batch.target_input[:, :36] == -1).all()
    assert batch.target_position[batch.target_slot == slot].max() < n_positions(space["test_sources"].spec)


def test_the_model_takes_what_the_loader_gives(opened, space: TokenSpace) -> None:
    """Sentinels, ends, padding and every position have their rows in the model's tables."""
    from aion_core.model import AionConfig, AionModel

    model = AionModel(AionConfig(dim=16, encoder_depth=1, decoder_depth=1, num_heads=2), space)
    for batch in take(TokenLoader(opened, space, 64, SMALL, seed=4), 4):
        sums = model(batch)
        assert torch.isfinite(sums).all()
        assert ((sums > 0) == (torch.tensor(batch.target_counts) > 0)).all()
        for slot, spec in enumerate(space.specs()):
            for code, slots, position in sides(batch):
                assert position[slots == slot].max(initial=0) < n_positions(spec)
                assert code[slots == slot].max(initial=0) < spec.vocab_size


@pytest.mark.parametrize("prefetch", [0, 2])
def test_batches_for_a_gpu_are_pinned_where_they_are_made(prefetch, opened, space, monkeypatch) -> None:
    """Copying from pageable memory would wait for all that the GPU still has to do."""
    pinned: list[tuple[str, int]] = []
    monkeypatch.setattr(
        torch.Tensor, "pin_memory", lambda t: pinned.append((threading.current_thread().name, id(t))) or t.clone()
    )
    plain = take(TokenLoader(opened, space, 8, SMALL, prefetch=prefetch), 1)[0]
    assert pinned == []
    batch = take(TokenLoader(opened, space, 8, SMALL, prefetch=prefetch, pin=True), 1)[0]
    assert equal(batch, plain)
    tensors = [f.name for f in fields(batch) if isinstance(getattr(batch, f.name), torch.Tensor)]
    assert len(pinned) % (len(tensors) - 1) == 0, "all but the index, which stays on the host"
    assert pinned
    assert all(name.startswith("batches") == bool(prefetch) for name, _ in pinned)
