"""Memory is looked at from outside: files of 200 MB are read with little more than what the first batch took."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

from aion_core.plugins import load_registry
from aion_core.testing import memory_growth

MB = 1 << 20


def table(path: Path, rows: int, width: int) -> Path:
    """Write a catalogue that the installed plugins read, with a wide column that none of them wants."""
    numbers = {"RA": np.linspace(0, 1, rows), "DEC": np.linspace(0, 1, rows), "FLUX_R": np.ones(rows)}
    columns = [fits.Column(name, "D", array=values) for name, values in numbers.items()]
    whole = {"RELEASE": np.full(rows, 9010), "BRICKID": np.arange(rows), "OBJID": np.arange(rows)}
    columns += [fits.Column(name, "J", array=values) for name, values in whole.items()]
    columns += [fits.Column("OTHER", f"{width}E", array=np.zeros((rows, width), np.float32))]
    fits.BinTableHDU.from_columns(columns).writeto(path)
    return path


def test_a_large_table_is_read_in_the_memory_of_a_small_one(tmp_path: Path) -> None:
    assert load_registry().readers
    path = table(tmp_path / "sweep.fits", 100_000, 500)
    assert path.stat().st_size > 190 * MB
    growth, objects = memory_growth(path, 2048)
    assert objects == 100_000
    assert growth < 40 * MB


def test_memory_that_is_kept_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keeping = "import numpy as np\nkept = []\ndef hold(batches):\n    for b in batches:\n"
    keeping += "        kept.append(np.ones(1 << 18))\n        yield b\n"
    child = "aion_core.testing.memory._CHILD"
    from aion_core.testing import memory

    monkeypatch.setattr(
        child, keeping + memory._CHILD.replace("in reader.read(path, size))", "in hold(reader.read(path, size)))")
    )
    growth, objects = memory_growth(table(tmp_path / "sweep.fits", 10_000, 1))
    assert objects == 10_000
    assert growth > 60 * MB  # 40 batches, 2 MB each


def test_a_file_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "sweep.fits").write_text("no table")
    with pytest.raises(RuntimeError, match=r"sweep\.fits could not be read"):
        memory_growth(tmp_path / "sweep.fits")
