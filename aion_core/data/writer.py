"""Writing token stores: bounded chunks, checked codes, nothing half-written under the final name."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from aion_core.contract import SEQUENCE_IDS, AionError, InputError, ModalitySpec, TokenSpace
from aion_core.data.columns import (
    BASE_COLUMNS,
    CHECKSUM,
    CHUNK_ROWS,
    HEALPIX_ORDER,
    MANIFEST,
    ROWS,
    arrow_type,
    checksum,
    schema_of,
)
from aion_core.files import replacing

Int = npt.NDArray[np.int64]


def healpix_of(ra: npt.ArrayLike, dec: npt.ArrayLike) -> Int:
    """Nested HEALPix pixel of order 29 of ICRS positions in degrees, int64 ``[B]``; −1 where either is not finite."""
    ra, dec = np.asarray(ra, np.float64), np.asarray(dec, np.float64)
    known = np.isfinite(ra) & np.isfinite(dec)
    pixels = np.full(ra.shape, -1, np.int64)
    if known.any():
        from astropy import units
        from astropy_healpix.core import lonlat_to_healpix

        if np.abs(dec[known]).max() > 90:
            raise InputError(f"dec must be in −90 … 90 degrees, found {dec[known][np.abs(dec[known]).argmax()]:g}.")
        lon, lat = np.mod(ra[known], 360.0) * units.deg, dec[known] * units.deg
        pixels[known] = lonlat_to_healpix(lon, lat, 1 << HEALPIX_ORDER, order="nested")
    return pixels


class StoreWriter:
    """Writes one token store, as a context manager; the file appears under its name only when all went well.

    What is written goes through a scratch file in the same folder first, because which columns are empty, and so
    left out, is known at the end only. Leaving the ``with`` block by an exception removes all traces.

    Parameters
    ----------
    path
        The file to write; a present one is replaced.
    space
        The modalities that may come, with bound fingerprints.
    metadata
        Further text for the schema's metadata (what was read, when).
    chunk_rows
        Rows of a record batch, whatever the sizes of the writes.
    """

    def __init__(
        self,
        path: str | Path,
        space: TokenSpace,
        metadata: Mapping[str, str] | None = None,
        chunk_rows: int = CHUNK_ROWS,
    ) -> None:
        self.path, self.space, self.chunk_rows = Path(path), space, chunk_rows
        self.metadata = dict(metadata or {})
        if taken := {MANIFEST, ROWS, CHECKSUM} & set(self.metadata):
            raise AionError(f"The metadata field {min(taken)!r} is the store's own; choose another name.")
        self.rows = 0
        self._pending: list[Any] = []
        self._present: set[str] = set()
        self._scratch = self.path.with_name(f".{self.path.name}.{os.getpid()}.scratch")
        with _writing(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = pa.OSFile(str(self._scratch), "wb")
            self._sink = pa.ipc.new_file(self._file, schema_of(space))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.discard()

    def write(
        self,
        object_id: npt.NDArray[np.str_] | Sequence[str],
        ra: npt.ArrayLike,
        dec: npt.ArrayLike,
        tokens: Mapping[str, tuple[Any, npt.ArrayLike]],
    ) -> None:
        """Append B objects.

        Parameters
        ----------
        object_id, ra, dec
            Identifiers and ICRS positions in degrees, ``[B]``; NaN where unknown.
        tokens
            ``{key: (codes [n, *shape], rows [n])}``: arrays or tensors; codes i belong to object ``rows[i]``.
            −1 marks an object that has nothing. A causal sequence may be shorter than its maximum, or padded with −1.
        """
        ids = np.asarray(object_id, dtype=str)
        ra, dec = np.asarray(ra, np.float64), np.asarray(dec, np.float64)
        if ids.ndim != 1 or ra.shape != ids.shape or dec.shape != ids.shape:
            raise InputError(f"object_id {ids.shape}, ra {ra.shape} and dec {dec.shape} must all have one shape (B,).")
        pixels = healpix_of(ra, dec)
        columns = [
            pa.array(ids.tolist(), pa.string()),
            pa.array(ra, mask=~np.isfinite(ra)),
            pa.array(dec, mask=~np.isfinite(dec)),
            pa.array(pixels, mask=pixels < 0),
        ]
        by_index = {self.space.index(key): value for key, value in tokens.items()}
        for index, spec in enumerate(self.space.specs()):
            codes, rows = by_index.get(index, ((), ()))
            column = _column(spec, _host(codes), np.asarray(rows, np.int64), len(ids))
            if column.null_count < len(column):
                self._present.add(spec.key)
            columns.append(column)
        self._pending.append(pa.record_batch(columns, schema=schema_of(self.space)))
        self.rows += len(ids)
        self._flush(self.chunk_rows)

    def _flush(self, least: int) -> None:
        """Write pending rows out in whole chunks, as long as `least` rows are pending."""
        if sum(map(len, self._pending)) < least:
            return
        joined = pa.concat_batches(self._pending)
        whole = len(joined) // self.chunk_rows * self.chunk_rows if least > 1 else len(joined)
        with _writing(self.path):
            for start in range(0, whole, self.chunk_rows):
                self._sink.write_batch(joined.slice(start, min(self.chunk_rows, whole - start)))
        self._pending = [joined.slice(whole)] if whole < len(joined) else []

    def close(self) -> None:
        """Write what is pending, the manifest and the checksum, and give the file its name."""
        try:
            self._flush(1)
            with _writing(self.path):
                self._sink.close()
                self._file.close()
                with replacing(self.path) as temporary:
                    self._finish(temporary)
        finally:
            self._scratch.unlink(missing_ok=True)

    def _finish(self, final: Path) -> None:
        """Copy the scratch file without its empty columns, with metadata; one chunk is in memory at a time."""
        space = self.space.select(key for key in self.space.keys if key in self._present)
        names = [*BASE_COLUMNS, *space.keys]
        metadata = self.metadata | {MANIFEST: space.to_json(), ROWS: str(self.rows)}
        with pa.memory_map(str(self._scratch)) as source:
            reader = pa.ipc.open_file(source)
            batches = [reader.get_batch(i).select(names) for i in range(reader.num_record_batches)]
            metadata[CHECKSUM] = checksum(batches, metadata)
            schema = schema_of(space).with_metadata(metadata)
            with pa.OSFile(str(final), "wb") as file, pa.ipc.new_file(file, schema) as sink:
                for batch in batches:
                    sink.write_batch(pa.record_batch(batch.columns, schema=schema))

    def discard(self) -> None:
        """Give up: remove what was written so far."""
        try:
            self._sink.close()
            self._file.close()
        except OSError:
            pass  # the disk is full: the scratch file goes all the same
        finally:
            self._scratch.unlink(missing_ok=True)


def _column(spec: ModalitySpec, codes: npt.NDArray[Any], rows: Int, size: int) -> Any:
    """Return the Arrow array ``[size]`` of one modality from the codes of some of the objects."""
    if not len(rows) and not len(codes):
        return pa.nulls(size, arrow_type(spec))
    flat = _checked(spec, codes, rows, size)
    lengths = np.zeros(size, np.int64)
    lengths[rows] = (flat >= 0).sum(axis=1)
    kind = arrow_type(spec)
    flat = flat[np.argsort(rows, kind="stable")]
    absent = lengths == 0
    if spec.n_tokens == 1:
        values = np.zeros(size, kind.to_pandas_dtype())
        values[np.sort(rows)] = np.maximum(flat[:, 0], 0)
        return pa.array(values, mask=absent)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    if offsets[-1] > np.iinfo(np.int32).max:
        raise InputError(f"{spec.key}: {offsets[-1]} tokens in one write are too many; write smaller batches.")
    values = flat[flat >= 0].astype(kind.value_type.to_pandas_dtype())
    return pa.ListArray.from_arrays(pa.array(offsets.astype(np.int32)), pa.array(values), mask=pa.array(absent))


def _host(codes: Any) -> npt.NDArray[Any]:
    return np.asarray(codes.cpu() if hasattr(codes, "cpu") else codes)


def _checked(spec: ModalitySpec, codes: npt.NDArray[Any], rows: Int, size: int) -> Int:
    """Return the codes as int64 ``[n, n_tokens]`` after checking shape, range and rows."""
    key = spec.key
    if len(rows) != len(codes) or len(np.unique(rows)) != len(rows) or (rows < 0).any():
        raise InputError(f"{key}: {len(codes)} codes need as many distinct rows of 0 … {size - 1}, found {rows!r}.")
    if rows.size and rows.max() >= size:
        raise InputError(f"{key}: row {rows.max()} is outside 0 … {size - 1}.")
    if codes.dtype.kind not in "iu":
        raise InputError(f"{key}: codes must be integers, not {codes.dtype}.")
    flat = codes.reshape(len(codes), -1).astype(np.int64)
    causal = spec.order == "causal"
    if flat.shape[1] > spec.n_tokens or (flat.shape[1] < spec.n_tokens and not causal):
        raise InputError(f"{key}: {flat.shape[1]} tokens an object, expected {spec.n_tokens}.")
    if flat.size and (flat.min() < -1 or flat.max() >= spec.vocab_size):
        wrong = flat[(flat < -1) | (flat >= spec.vocab_size)][0]
        raise InputError(f"{key}: code {wrong} is neither −1 (absent) nor in 0 … {spec.vocab_size - 1}.")
    there = flat >= 0
    count = there.sum(axis=1)
    if causal:
        if (there != (np.arange(flat.shape[1]) < count[:, None])).any():
            raise InputError(f"{key}: −1 stands before a code; a sequence is padded with −1 at its end only.")
        if (count % spec.item_tokens).any():
            raise InputError(f"{key}: a sequence has {count.max()} tokens, not a multiple of {spec.item_tokens}.")
        if (flat[there] < SEQUENCE_IDS.first_code).any():
            raise InputError(f"{key}: ids below {SEQUENCE_IDS.first_code} are reserved and never stored.")
    elif ((count != 0) & (count != spec.n_tokens)).any():
        raise InputError(f"{key}: an object has only a part of its {spec.n_tokens} tokens; −1 is for whole objects.")
    return flat


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = "the disk is full" if error.errno == errno.ENOSPC else (error.strerror or str(error)).lower()
        raise InputError(f"{path}: cannot be written ({reason}); nothing was left behind.") from error
