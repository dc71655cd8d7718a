"""Text and JSON row by row: what is no source is skipped by its number, and the rest goes on."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from aion_tok_gaia.reader import ArchiveReader

from aion_core.contract import InputError

Objects = dict[str, dict[str, np.ndarray]]


def read(path: Path, batch_size: int = 1000) -> tuple[Objects, list[tuple[str, str]]]:
    """Return ``{object id: {key: value}}`` of a whole file, and what was skipped."""
    objects: Objects = {}
    skipped: list[tuple[str, str]] = []
    for batch in ArchiveReader().read(path, batch_size):
        skipped += [(s.name, s.reason) for s in batch.skipped]
        for i, name in enumerate(batch.object_id):
            objects[str(name)] = {"ra": batch.ra[i], "dec": batch.dec[i]}
        for key, (observation, rows) in batch.data.items():
            for value, row in zip(observation.value.numpy(), rows, strict=True):
                objects[str(batch.object_id[row])][key] = value
    return objects, skipped


@pytest.mark.parametrize("size", [1, 2, 100])
@pytest.mark.parametrize(
    ("cells", "name", "reason"),
    [
        ("abc,1,2,3", "row 2", "source_id is 'abc', not an integer"),
        (",1,2,3", "row 2", "source_id is missing"),
        ("-99,1,2,3", "row 2", "source_id is -99"),
        ("99999999999999999999,1,2,3", "row 2", "source_id is '99999999999999999999', not an integer"),
        ("12,abc,2,3", "row 2 (source_id 12)", "parallax is 'abc', not a number"),
        ("12,1,2,123", "row 2 (source_id 12)", "dec is 123.0 degrees"),
        ("12,1,400,3", "row 2 (source_id 12)", "ra is 400.0 degrees"),
        ("12,1,2", "row 2", "the line has 3 cells, expected 4"),
        ("12,1,2,3,4", "row 2", "the line has 5 cells, expected 4"),
        ("12", "row 2", "the line has 1 cell, expected 4"),
        ("12,\xff,2,3", "row 2 (source_id 12)", "parallax is '?', not a number"),
    ],
)
def test_a_line_that_is_no_source_is_skipped_and_the_rest_goes_on(
    tmp_path: Path, cells: str, name: str, reason: str, size: int
) -> None:
    path = tmp_path / "a.csv"
    path.write_text(f"source_id,parallax,ra,dec\n11,1,2,3\n{cells}\n13,4,5,6\n", encoding="latin-1")
    objects, skipped = read(path, size)
    assert list(objects) == ["11", "13"]
    assert objects["13"]["gaia_parallax"] == 4
    assert skipped == [(name, reason)]


@pytest.mark.parametrize("size", [1, 2, 3, 100])
def test_rows_keep_their_numbers_behind_lines_that_are_none(tmp_path: Path, size: int) -> None:
    path = tmp_path / "a.csv"
    path.write_text("# x\nsource_id,parallax\n11,1\n12\n13,x\n14,1,1\n15,2\n16\n17\n18,y\n19\n")
    objects, skipped = read(path, size)
    assert list(objects) == ["11", "15"]
    assert [name.partition(" (")[0] for name, _ in skipped] == [f"row {n}" for n in (2, 3, 4, 6, 7, 8, 9)]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ([2, "abc"], "parallax is 'abc', not a number"),
        ([2, True], "parallax is True, not a number"),
        ([None, 1.0], "source_id is missing"),
        ([2], "the row has 1 values, expected 2"),
        ({"source_id": 2}, "the row has no list of values, expected 2"),
        ([2, [1.0, 2.0]], "parallax is [1.0, 2.0], not a number"),
    ],
)
def test_a_row_of_json_that_is_no_source_is_skipped(tmp_path: Path, row: object, reason: str) -> None:
    path = tmp_path / "a.json"
    metadata = [{"name": "source_id"}, {"name": "parallax"}]
    path.write_text(json.dumps({"metadata": metadata, "data": [[1, 2.0], row, [3, None]]}))
    objects, skipped = read(path)
    assert list(objects) == ["1", "3"]
    assert [reason for _, reason in skipped] == [reason]
    assert skipped[0][0].startswith("row 2")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("source_id,parallax\n5.8e18,2.0\n", "5.8e18"),
        ("source_id,phot_g_mean_mag\n1,12.0\n", "ref_epoch"),
        ('{"metadata": [{"name": "source_id"}, {"name": "parallax"}]}', "the field 'data' is missing"),
        ('{"metadata": [{"name": "source_id"}, {"name": "parallax"}], "data": [[1, 2]', "cut short"),
        ('{"metadata": [{"name": "source_id"}, {"name": "parallax"}], "data": 7}', "expected '\\['"),
    ],
)
def test_tables_without_a_meaning_are_refused_with_a_sentence(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "a.csv"
    path.write_text(content)
    assert ArchiveReader().claims(path)
    with pytest.raises(InputError, match=rf"a\.csv: .*{message}"):
        read(path)


def test_a_magnitude_without_a_known_release_skips_its_row(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("source_id,phot_g_mean_mag,ref_epoch\n1,12.0,2015.0\n2,12.0,2016.0\n3,,\n4,0,2015.5\n")
    objects, skipped = read(path)
    assert [(name, "gaia_flux_g" in measured) for name, measured in objects.items()] == [
        ("2", True),
        ("3", False),
        ("4", False),
    ]
    assert [name for name, _ in skipped] == ["row 1 (source_id 1)"]
    assert "ref_epoch 2015.0" in skipped[0][1]


def test_json_that_is_cut_behind_its_rows_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    whole = '{"metadata": [{"name": "source_id"}, {"name": "parallax"}], "data": [[1, 2.0]], "more": [1]}'
    path.write_text(whole)
    assert list(read(path)[0]) == ["1"]
    path.write_text(whole[:-3])
    with pytest.raises(InputError, match=r"a\.json"):
        read(path)


def test_bare_arrays_are_read_across_the_edges_of_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.csv"
    lines = [f"{i},({', '.join(map(str, np.arange(55) + i))})\n" for i in range(1, 50)]
    path.write_text("source_id,bp_coefficients\n" + "".join(lines))
    monkeypatch.setattr("aion_tok_gaia.formats.text.BLOCK_BYTES", 1000)
    objects, skipped = read(path)
    assert skipped == []
    assert [measured["gaia_xp_bp"][0] for measured in objects.values()] == list(range(1, 50))
