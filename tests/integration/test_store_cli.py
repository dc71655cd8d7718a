"""``aion store stats`` on real files: what it counts, what it says of damage, and how it ends."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from aion_core.cli import main
from aion_core.contract import ModalitySpec, Provenance, Slot, TokenSpace
from aion_core.data.store import StoreWriter


def spec(number: int, key: str, vocab_size: int, n: int) -> ModalitySpec:
    return ModalitySpec(
        key=key, survey="Test", title=key, citation="none", kind="scalar", quantity="phot.flux", units="",
        vocab_size=vocab_size, shape=(n,), position="seq1d",
        provenance=Provenance(id=number, instrument="none", release="none"),
    )  # fmt: skip


SPACE = TokenSpace(
    slots=(
        Slot(spec=spec(1, "test_a", 8, 1), fingerprint="a" * 64, distribution="aion-tok-test", version="1.0"),
        Slot(spec=spec(2, "test_b", 100, 4), fingerprint="b" * 64, distribution="aion-tok-test", version="1.0"),
    )
)


@pytest.fixture
def folder(tmp_path) -> Path:
    """Two stores: one across RA 0 with both modalities, one without positions and with the first only."""
    with StoreWriter(tmp_path / "one.arrow", SPACE) as writer:
        tokens = {
            "test_a": ([[0], [1], [2], [3]], range(4)),
            "test_b": (np.array([[7, 7, 8, 8], [7, 8, 7, 8]]), [1, 3]),
        }
        writer.write(["a", "b", "c", "d"], [359.5, 0.25, 1.5, 358.75], [-1.0, 2.5, 0.0, 1.0], tokens)
    with StoreWriter(tmp_path / "two.arrow", SPACE) as writer:
        writer.write(["e"], [np.nan], [np.nan], {"test_a": ([[3]], [0])})
    return tmp_path


def stats(capsys, *words) -> dict:
    assert main(["store", "stats", *map(str, words), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_the_counts_are_those_of_the_stores(folder, capsys) -> None:
    found = stats(capsys, folder, "--verify")
    assert found["verified"]
    assert (found["objects"], found["tokens"]) == (5, 13)
    assert [Path(s["path"]).name for s in found["stores"]] == ["one.arrow", "two.arrow"]
    assert [s["objects"] for s in found["stores"]] == [4, 1]
    assert [s["modalities"] for s in found["stores"]] == [["test_a", "test_b"], ["test_a"]]
    assert found["bytes"] == sum(p.stat().st_size for p in folder.glob("*.arrow"))
    assert found["plugins"] == [{"distribution": "aion-tok-test", "version": "1.0"}]
    a, b = found["modalities"]["test_a"], found["modalities"]["test_b"]
    assert (a["objects"], a["missing"], a["tokens"], a["codes_used"], a["vocab_size"]) == (5, 0.0, 5, 4, 8)
    entropy = -3 * 0.2 * np.log(0.2) - 0.4 * np.log(0.4)
    assert a["perplexity"] == pytest.approx(np.exp(entropy))
    assert (b["objects"], b["missing"], b["tokens"], b["codes_used"]) == (2, 0.6, 8, 2)
    assert b["perplexity"] == pytest.approx(2)
    assert a["fingerprints"] == ["a" * 64]


def test_the_extent_is_the_shortest_arc_even_across_zero(folder, capsys) -> None:
    sky = stats(capsys, folder)["sky"]
    assert sky["objects"] == 4
    assert sky["ra"] == pytest.approx([358.75, 1.5])
    assert sky["dec"] == [-1.0, 2.5]
    assert 0 < sky["patches"] <= 4
    assert stats(capsys, folder / "two.arrow")["sky"] is None


def test_a_survey_of_all_the_sky_goes_all_around(tmp_path, capsys) -> None:
    with StoreWriter(tmp_path / "all.arrow", SPACE) as writer:
        ra = np.arange(360) + 0.25
        writer.write([str(r) for r in ra], ra, np.zeros(360), {"test_a": (np.ones((360, 1), int), range(360))})
    assert stats(capsys, tmp_path)["sky"]["ra"] == [0.25, 359.25]


def test_people_get_tables(folder, capsys) -> None:
    assert main(["store", "stats", str(folder), "--verify"]) == 0
    out = capsys.readouterr().out
    for text in ("checksums verified", "aion-tok-test 1.0", "RA 358.750 to 1.500", "test_b", "60.0%", "one.arrow"):
        assert text in out


def test_damage_is_one_sentence_and_exit_code_2(folder, capsys) -> None:
    path = folder / "one.arrow"
    data = bytearray(path.read_bytes())
    place = data.index(np.array([7, 7, 8, 8], np.uint16).tobytes())
    data[place] = 9
    path.write_bytes(data)
    assert main(["store", "stats", str(folder)]) == 0
    capsys.readouterr()
    assert main(["store", "stats", str(folder), "--verify"]) == 2
    out = capsys.readouterr()
    assert out.out == ""
    assert out.err.strip() == f"aion: {path}: damaged, its checksum does not match. Copy or write it again."


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none.arrow", None, "no such file"),
        ("x.arrow", b"", "not a whole Arrow"),
        ("x.arrow", b"text" * 99, "not a whole"),
    ],
)
def test_other_files_are_one_sentence_and_exit_code_2(name, content, message, tmp_path, capsys) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    assert main(["store", "stats", str(tmp_path / name)]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1


def test_the_help_has_an_example() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "aion_core.cli", "store", "--help"], capture_output=True, text=True, check=True
    )
    assert "aion store stats tokens/" in done.stdout
