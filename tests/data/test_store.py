"""What a token store promises: it gives back what was written, says what it means, and refuses what is damaged."""

from __future__ import annotations

import resource
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from aion_core.contract import AionError, InputError, TokenSpace
from aion_core.data.store import StoreWriter, TokenStore, healpix_of

NOWHERE = [float("nan")]


def write_codes(path: Path, space: TokenSpace, key: str, codes, rows=None) -> TokenStore:
    codes = np.asarray(codes)
    n = len(codes)
    with StoreWriter(path, space) as writer:
        writer.write([str(i) for i in range(n)], NOWHERE * n, NOWHERE * n, {key: (codes, rows or np.arange(n))})
    return TokenStore(path)


# --- what comes back ---


@settings(max_examples=25, deadline=None)
@given(
    sizes=st.lists(st.integers(0, 40), min_size=1, max_size=5),
    present=st.floats(0, 1),
    chunk_rows=st.integers(1, 50),
    seed=st.integers(0, 1000),
)
def test_what_is_written_is_read_whatever_the_sizes_of_writes_and_chunks(
    sizes, present, chunk_rows, seed, space, draw_codes, tmp_path_factory
) -> None:
    path = tmp_path_factory.mktemp("store") / "a.arrow"
    rng = np.random.default_rng(seed)
    written = []
    with StoreWriter(path, space, chunk_rows=chunk_rows) as writer:
        for part, n in enumerate(sizes):
            codes = draw_codes(space, n, rng, present)
            tokens = {}
            for key, values in codes.items():
                rows = rng.permutation(np.flatnonzero((values >= 0).any(axis=1)))
                tokens[key] = (values[rows], rows)
            writer.write([f"{part}-{i}" for i in range(n)], rng.uniform(0, 360, n), rng.uniform(-90, 90, n), tokens)
            written.append(codes)
    store = TokenStore(path)
    whole = {key: np.concatenate([codes[key] for codes in written]) for key in space.keys}
    assert len(store) == sum(sizes)
    assert store.ids.to_pylist() == [f"{part}-{i}" for part, n in enumerate(sizes) for i in range(n)]
    rows = rng.integers(0, max(1, len(store)), 30 if len(store) else 0)
    read = store.tokens(rows)
    assert set(read) == {key for key, codes in whole.items() if (codes >= 0).any()}
    for key, codes in read.items():
        np.testing.assert_array_equal(codes, whole[key][rows])
    lengths = store.lengths(rows)
    for slot, key in enumerate(store.space.keys):
        np.testing.assert_array_equal(lengths[:, slot], (whole[key][rows] >= 0).sum(axis=1))
    np.testing.assert_array_equal(
        store.present(store.space.keys),
        np.logical_or.reduce([(c >= 0).any(axis=1) for c in whole.values()]) if len(store) else np.zeros(0, bool),
    )
    assert (np.diff(store.chunks)[:-1] == chunk_rows).all()
    store.verify()


def test_tensors_grids_and_flat_codes_are_all_accepted(space, tmp_path) -> None:
    codes = torch.arange(72).reshape(2, 6, 6)
    for form in (codes, codes.numpy(), codes.flatten(1)):
        store = write_codes(tmp_path / "a.arrow", space, "test_image", form)
        assert store.tokens([1])["test_image"].tolist() == [list(range(36, 72))]


def test_an_absent_object_is_null(space, tmp_path) -> None:
    store = write_codes(tmp_path / "a.arrow", space, "test_image", [[3] * 36, [-1] * 36])
    assert store.column("test_image").to_pylist() == [[3] * 36, None]
    store = write_codes(tmp_path / "b.arrow", space, "test_r", [[-1], [5]])
    assert store.column("test_r").to_pylist() == [None, 5]


def test_a_column_that_no_object_has_is_left_out_of_file_and_manifest(space, tmp_path) -> None:
    store = write_codes(tmp_path / "a.arrow", space, "test_r", [[1], [2]])
    assert store.space.keys == ("test_r",)
    assert store.column("object_id").to_pylist() == ["0", "1"]
    with pytest.raises(AionError, match="No modality 'test_g'"):
        store.column("test_g")


def test_codes_take_two_bytes_and_four_only_where_the_vocabulary_needs_it(space, write_store, tmp_path) -> None:
    store, _ = write_store(tmp_path / "a.arrow", space, 20)
    types = {key: store.column(key).type for key in space.keys}
    assert types["test_r"] == pa.uint16()
    assert types["test_image"] == types["test_sources"] == pa.list_(pa.uint16())
    assert types["test_wide"] == pa.list_(pa.uint32())


def test_a_store_without_objects_is_a_store(space, tmp_path) -> None:
    with StoreWriter(tmp_path / "a.arrow", space):
        pass
    store = TokenStore(tmp_path / "a.arrow")
    store.verify()
    assert len(store) == 0
    assert store.chunks.tolist() == [0]
    assert store.lengths([]).shape == (0, 0)


def test_pyarrow_alone_reads_it(space, write_store, tmp_path) -> None:
    store, codes = write_store(tmp_path / "a.arrow", space, 50)
    table = pa.ipc.open_file(str(tmp_path / "a.arrow")).read_all()
    assert table.column_names == ["object_id", "ra", "dec", "healpix", *space.keys]
    assert table["test_image"].null_count == (codes["test_image"] < 0).all(axis=1).sum()
    first = next(i for i in range(50) if codes["test_sources"][i, 0] >= 0)
    expected = codes["test_sources"][first]
    assert table["test_sources"][first].as_py() == expected[expected >= 0].tolist()
    assert TokenSpace.from_json(table.schema.metadata[b"aion_manifest"]) == store.space


def test_the_manifest_keeps_fingerprints_and_plugins(make_spec, make_space, tmp_path) -> None:
    bound = make_space(
        make_spec("test_r", 10, (1,), "scalar"), fingerprint="a" * 64, distribution="test-plugin", version="1.2"
    )
    store = write_codes(tmp_path / "a.arrow", bound, "test_r", [[1]])
    assert store.space == bound


def test_further_metadata_is_kept_and_cannot_hide_the_stores_own(space, tmp_path) -> None:
    with StoreWriter(tmp_path / "a.arrow", space, {"source": "night 7"}):
        pass
    assert TokenStore(tmp_path / "a.arrow").metadata["source"] == "night 7"
    with pytest.raises(AionError, match="aion_rows"):
        StoreWriter(tmp_path / "b.arrow", space, {"aion_rows": "7"})


# --- positions ---


def test_positions_become_nested_pixels_of_order_29_and_unknown_ones_null(space, tmp_path) -> None:
    from astropy import units
    from astropy_healpix import HEALPix

    ra, dec = np.array([0.0, 150.1, np.nan, 359.99, 10.0]), np.array([0.0, 2.2, 5.0, -90.0, np.nan])
    with StoreWriter(tmp_path / "a.arrow", space) as writer:
        writer.write(list("abcde"), ra, dec, {"test_r": ([[1]] * 5, range(5))})
    store = TokenStore(tmp_path / "a.arrow")
    known = [0, 1, 3]
    expected = HEALPix(2**29, "nested").lonlat_to_healpix(ra[known] * units.deg, dec[known] * units.deg)
    np.testing.assert_array_equal(store.healpix[known], expected)
    assert store.healpix[[2, 4]].tolist() == [-1, -1]
    assert store.column("healpix").null_count == 2
    assert store.column("ra").null_count == store.column("dec").null_count == 1
    np.testing.assert_array_equal(store.ra, ra)
    np.testing.assert_array_equal(store.dec, dec)


def test_right_ascension_wraps_and_declination_does_not() -> None:
    assert healpix_of([370.0], [1.0]) == healpix_of([10.0], [1.0]) == healpix_of([-350.0], [1.0])
    with pytest.raises(InputError, match=r"−90 … 90 degrees, found -95"):
        healpix_of([0.0, 1.0], [3.0, -95.0])


# --- what is refused ---


@pytest.mark.parametrize(
    ("key", "codes", "message"),
    [
        ("test_r", [[1024]], "code 1024 is neither −1 .* nor in 0 … 1023"),
        ("test_r", [[-2]], "code -2"),
        ("test_r", [[0.5]], "must be integers, not float64"),
        ("test_image", [[1] * 35], "35 tokens an object, expected 36"),
        ("test_image", [[-1] + [1] * 35], "only a part of its 36 tokens"),
        ("test_sources", [[300] * 25], "25 tokens an object, expected 20"),
        ("test_sources", [[300, 300, -1, 300, 300]], "padded with −1 at its end only"),
        ("test_sources", [[300] * 4 + [-1]], "4 tokens, not a multiple of 5"),
        ("test_sources", [[3] * 5], "ids below 204 are reserved"),
        ("test_unknown", [[1]], "No modality 'test_unknown'"),
    ],
)
def test_codes_that_cannot_be_are_refused_and_nothing_is_left(key, codes, message, space, tmp_path) -> None:
    with pytest.raises(AionError, match=message):
        write_codes(tmp_path / "a.arrow", space, key, codes)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("rows", [[0, 0], [0, 2], [-1, 0], [0]])
def test_rows_that_do_not_fit_are_refused(rows, space, tmp_path) -> None:
    with pytest.raises(InputError, match="test_r"):
        write_codes(tmp_path / "a.arrow", space, "test_r", [[1], [2]], rows)


def test_a_failure_half_way_leaves_the_old_file_and_nothing_else(space, write_store, tmp_path) -> None:
    write_store(tmp_path / "a.arrow", space, 20)
    before = (tmp_path / "a.arrow").read_bytes()
    with pytest.raises(RuntimeError), StoreWriter(tmp_path / "a.arrow", space, chunk_rows=1) as writer:
        writer.write(["x", "y"], NOWHERE * 2, NOWHERE * 2, {"test_r": ([[1], [2]], [0, 1])})
        raise RuntimeError
    assert (tmp_path / "a.arrow").read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.arrow"]


def test_a_folder_that_cannot_be_written_is_one_sentence(space, tmp_path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        StoreWriter(tmp_path / "file" / "a.arrow", space)


@pytest.mark.parametrize("limit", [1 << 20, 1_800_000], ids=["in the scratch file", "in the final file"])
def test_a_full_disk_is_one_sentence_and_leaves_nothing(limit, tmp_path) -> None:
    """A limit on the size of files fails a write as a full disk does, at another place of the code each time."""
    code = f"""
        import sys, numpy as np
        from aion_core.contract import InputError, ModalitySpec, Provenance, Slot, TokenSpace
        from aion_core.data.store import StoreWriter
        provenance = Provenance(id=1, instrument="none", release="none")
        spec = ModalitySpec(key="test_image", survey="T", title="T", citation="T", kind="image", quantity="phot.flux",
                            units="", vocab_size=1000, shape=(24, 24), position="grid2d", provenance=provenance)
        n = 1500
        try:
            with StoreWriter({str(tmp_path / "a.arrow")!r}, TokenSpace(slots=(Slot(spec=spec),)), chunk_rows=100) as w:
                w.write(["x"] * n, np.zeros(n), np.zeros(n), {{"test_image": (np.ones((n, 24, 24), int), range(n))}})
                if {limit} > 1 << 20:
                    w.metadata["more"] = "x" * 200_000
        except InputError as error:
            print(error)
            sys.exit(7)
    """

    def limited() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, preexec_fn=limited, check=False
    )
    assert (done.returncode, done.stderr) == (7, "")
    assert "a.arrow: cannot be written" in done.stdout
    assert len(done.stdout.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


# --- what is damaged ---


@pytest.mark.parametrize("keep", [0, 5, 100, 0.5, 0.99, -1])
def test_a_truncated_file_is_refused_on_opening(keep, space, write_store, tmp_path) -> None:
    path = tmp_path / "a.arrow"
    write_store(path, space, 50)
    data = path.read_bytes()
    path.write_bytes(data[: int(keep * len(data)) if isinstance(keep, float) else keep])
    with pytest.raises(InputError, match="not a whole Arrow IPC file"):
        TokenStore(path)


def test_other_files_are_refused_on_opening(space, tmp_path) -> None:
    with pytest.raises(InputError, match="no such file"):
        TokenStore(tmp_path / "none.arrow")
    (tmp_path / "text.arrow").write_text("not arrow\n" * 100)
    with pytest.raises(InputError, match="not a whole Arrow IPC file"):
        TokenStore(tmp_path / "text.arrow")
    table = pa.table({"object_id": ["a"]})
    with pa.ipc.new_file(str(tmp_path / "table.arrow"), table.schema) as sink:
        sink.write_table(table)
    with pytest.raises(InputError, match="no token store: it lacks the manifest"):
        TokenStore(tmp_path / "table.arrow")


def rewritten(store: TokenStore, path: Path, change, metadata: dict[str, str] | None = None, options=None) -> Path:
    """The store's table after another tool changed it."""
    table = change(pa.ipc.open_file(str(store.path)).read_all())
    table = table.replace_schema_metadata({**store.metadata, **(metadata or {})})
    with pa.ipc.new_file(str(path), table.schema, options=options) as sink:
        sink.write_table(table, max_chunksize=16)
    return path


def test_any_changed_value_fails_verification(space, write_store, tmp_path) -> None:
    store, _ = write_store(tmp_path / "a.arrow", space, 40)

    def changed(name: str, row: int):
        def change(table: pa.Table) -> pa.Table:
            values = table[name].to_pylist()
            values[row] = values[row + 1] if values[row] != values[row + 1] else None
            index = table.column_names.index(name)
            return table.set_column(index, table.schema.field(name), pa.array(values, table.schema.field(name).type))

        return change

    TokenStore(rewritten(store, tmp_path / "same.arrow", lambda table: table)).verify()
    for name in ("object_id", "ra", "healpix", *space.keys):
        copy = TokenStore(rewritten(store, tmp_path / "changed.arrow", changed(name, 7)))
        with pytest.raises(InputError, match="its checksum does not match"):
            copy.verify()
    copy = TokenStore(rewritten(store, tmp_path / "changed.arrow", lambda t: t, {"note": "added later"}))
    with pytest.raises(InputError, match="its checksum does not match"):
        copy.verify()


def test_a_value_moved_to_another_object_fails_verification(space, tmp_path) -> None:
    for key, value in (("test_r", [5]), ("test_image", [5] * 36)):
        store = write_codes(tmp_path / "a.arrow", space, key, [value, [-1] * len(value)])

        def swapped(table: pa.Table, key: str = key) -> pa.Table:
            return table.set_column(4, table.schema.field(key), table[key].take([1, 0]))

        with pytest.raises(InputError, match="its checksum does not match"):
            TokenStore(rewritten(store, tmp_path / "b.arrow", swapped)).verify()


def test_a_flipped_bit_in_the_tokens_fails_verification(space, write_store, tmp_path) -> None:
    path = tmp_path / "a.arrow"
    _, codes = write_store(path, space, 40, present=1.0)
    data = bytearray(path.read_bytes())
    needle = codes["test_image"][5].astype(np.uint16).tobytes()
    assert data.count(needle) == 1
    data[data.index(needle) + 3] ^= 1
    path.write_bytes(data)
    with pytest.raises(InputError, match="its checksum does not match"):
        TokenStore(path).verify()


def test_a_damaged_length_is_noticed_before_anything_is_read(space, tmp_path) -> None:
    path = tmp_path / "a.arrow"
    store = write_codes(path, space, "test_image", [[7] * 36] * 3)
    data = bytearray(path.read_bytes())
    offsets = np.array([0, 36, 72, 108], np.int32).tobytes()
    assert data.count(offsets) == 1
    data[data.index(offsets) + 6] = 99
    damaged = tmp_path / "b.arrow"
    damaged.write_bytes(data)
    with pytest.raises(InputError, match="an object has more tokens than can be"):
        TokenStore(damaged).tokens([0])
    assert store.lengths([0, 1, 2]).tolist() == [[36]] * 3


def test_rows_missing_from_the_end_are_noticed(space, write_store, tmp_path) -> None:
    store, _ = write_store(tmp_path / "a.arrow", space, 40)
    copy = TokenStore(rewritten(store, tmp_path / "b.arrow", lambda table: table.slice(0, 32)))
    with pytest.raises(InputError, match="32 rows, but 40 were written"):
        copy.tokens([0])


def test_a_column_of_another_type_than_promised_is_refused(space, write_store, tmp_path) -> None:
    store, _ = write_store(tmp_path / "a.arrow", space, 40)

    def widened(table: pa.Table) -> pa.Table:
        return table.set_column(table.column_names.index("test_r"), "test_r", table["test_r"].cast(pa.int64()))

    with pytest.raises(InputError, match="test_r is int64, but the manifest promises uint16"):
        TokenStore(rewritten(store, tmp_path / "b.arrow", widened))
    with pytest.raises(InputError, match="test_r is absent"):
        TokenStore(rewritten(store, tmp_path / "c.arrow", lambda table: table.drop_columns("test_r")))


def test_a_compressed_copy_is_refused_with_what_to_do(space, write_store, tmp_path) -> None:
    store, _ = write_store(tmp_path / "a.arrow", space, 400, chunk_rows=400)
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    copy = TokenStore(rewritten(store, tmp_path / "b.arrow", lambda table: table, options=options))
    with pytest.raises(InputError, match="rewrite it as an uncompressed Arrow IPC file"):
        copy.tokens([0])


def test_a_manifest_of_another_version_is_refused_by_name(space, write_store, tmp_path) -> None:
    store, _ = write_store(tmp_path / "a.arrow", space, 10)
    with pytest.raises(AionError, match=r"b\.arrow: The manifest has version 99"):
        TokenStore(rewritten(store, tmp_path / "b.arrow", lambda t: t, {"aion_manifest": '{"aion_manifest": 99}'}))


@pytest.mark.parametrize("row", [-1, 40])
def test_rows_outside_are_refused(row, space, write_store, tmp_path) -> None:
    store, _ = write_store(tmp_path / "a.arrow", space, 40)
    with pytest.raises(InputError, match="0 … 39"):
        store.tokens([row])


# --- folders ---


def test_a_folder_stands_for_the_stores_below_it(space, write_store, tmp_path) -> None:
    (tmp_path / "deep").mkdir()
    for name in ("b", "a", "deep/c"):
        write_store(tmp_path / f"{name}.arrow", space, 3)
    (tmp_path / ".a.arrow.77.tmp").write_text("being written")
    (tmp_path / ".half.arrow").write_text("being written")
    assert [s.path.stem for s in TokenStore.open(tmp_path)] == ["a", "b", "c"]
    assert [s.path.stem for s in TokenStore.open([tmp_path / "deep", tmp_path / "a.arrow"])] == ["c", "a"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no token store"):
        TokenStore.open(tmp_path / "empty")
