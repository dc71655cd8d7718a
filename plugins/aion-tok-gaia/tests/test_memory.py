"""Memory does not grow with the file, in any format."""

from __future__ import annotations

import gzip
import struct
from base64 import b64encode
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from astropy.io import fits

from aion_core.testing.memory import memory_growth

SUFFIX = {"tabledata": "vot", "binary2": "xml"}
SLOW = ("fits", "tabledata", "binary2", "json", "parquet", "npz")


def write_large(path: Path, kind: str, count: int) -> Path:
    """Write one spectrum many times over, without the detours of general writers."""
    name, values = 2**60 + 1, np.random.default_rng(1).normal(size=55).round(6)
    bp = ", ".join(map(str, values))
    if kind == "csv.gz":
        lines = ["source_id,bp_coefficients\n", *[f'{name},"({bp})"\n'] * count]
        path.write_bytes(gzip.compress("".join(lines).encode(), 1))
    elif kind == "json":
        head = '{"metadata": [{"name": "source_id"}, {"name": "bp_coefficients"}], "data": ['
        path.write_text(head + ",".join([f"[{name}, [{bp}]]"] * count) + "]}")
    elif kind in ("binary2", "tabledata"):
        packed = b64encode(struct.pack(">Bq55d", 0, name, *values) * count).decode()
        row = f"<TR><TD>{name}</TD><TD>{bp.replace(',', '')}</TD></TR>"
        data = {
            "binary2": f'<BINARY2><STREAM encoding="base64">{packed}</STREAM></BINARY2>',
            "tabledata": f"<TABLEDATA>{row * count}</TABLEDATA>",
        }
        path.write_text(
            '<VOTABLE><RESOURCE><TABLE><FIELD name="source_id" datatype="long"/>'
            '<FIELD name="bp_coefficients" datatype="double" arraysize="55"/>'
            f"<DATA>{data[kind]}</DATA></TABLE></RESOURCE></VOTABLE>"
        )
    elif kind == "npz":
        np.savez_compressed(path, X=np.ones((count, 110)), source_id=np.arange(count) + 1)
    elif kind == "parquet":
        columns = {"source_id": np.arange(count) + 1, "bp_coefficients": [values] * count}
        pq.write_table(pa.table(columns), path, row_group_size=5000)
    else:
        cells = np.empty(count, object)
        cells[:] = [values] * count
        ids = fits.Column("source_id", "K", array=np.arange(count) + 1)
        fits.BinTableHDU.from_columns([ids, fits.Column("bp_coefficients", "PD()", array=cells)]).writeto(path)
    return path


@pytest.mark.parametrize("kind", ["csv.gz", *(pytest.param(kind, marks=pytest.mark.slow) for kind in SLOW)])
def test_memory_does_not_grow_with_the_file(tmp_path: Path, kind: str) -> None:
    path = write_large(tmp_path / f"x.{SUFFIX.get(kind, kind)}", kind, 100_000)  # 44 MB of numbers, or 58 as text
    grown, count = memory_growth(path)
    assert count == 100_000
    assert grown < 32 << 20
