"""What every reader must hold on files of its own, as tests to inherit."""

from __future__ import annotations

import gzip
import shutil
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from aion_core.contract import InputError, ReaderSpec
from aion_core.data.files import NotClaimedError, build_reader, find_reader
from aion_core.data.reader import ObservationBatch, Reader
from aion_core.observations import Observation, SourceList
from aion_core.plugins import load_registry

#: One object: its position, and its arrays by modality and name.
Object = dict[Any, Any]

#: Contents that no survey wrote.
STRANGERS = {
    "nothing": b"",
    "noise": bytes(np.random.default_rng(0).integers(0, 256, 5000, dtype=np.uint8)),
    "text": b"Dear colleague,\nplease find attached\n",
    "table of others": b"name,height\nanna,1.7\nbert,1.8\n",
    "page": b"<html><body>404 not found</body></html>",
    "notes": b'{"metadata": 1, "data": {}}',
    "only the word": b"SIMPLE  =                    T",
    "cut compression": gzip.compress(b"SIMPLE  =                    T" * 500)[:40],
    "zip without members": b"PK\x05\x06" + bytes(18),
}


class ReaderContract(ABC):
    """Rules on one reader, proved on files that `files` returns.

    Examples
    --------
    >>> class TestMine(ReaderContract):
    ...     reader = "mine_table"
    ...
    ...     def files(self, folder):
    ...         return [write_table(folder / "table.fits")]
    """

    #: Name of the reader in the registry.
    reader: ClassVar[str]
    #: What a user might set for it.
    options: ClassVar[Mapping[str, Any]] = {}
    #: Whether the format shows that its last object is cut in two. Text without a length does not.
    shows_cuts: ClassVar[bool] = True
    #: Where files are cut: parts of their length.
    cuts: ClassVar[Sequence[float]] = (0.0005, 0.02, 0.11, 0.23, 0.31, 0.47, 0.59, 0.62, 0.71, 0.83, 0.97)

    @abstractmethod
    def files(self, folder: Path) -> Sequence[Path]:
        """Return files that the reader claims, one of each group: real ones, or written into the (empty) folder."""

    @pytest.fixture
    def given(self, tmp_path: Path) -> Sequence[Path]:
        (tmp_path / "given").mkdir()
        paths = [Path(path) for path in self.files(tmp_path / "given")]
        assert paths, "give at least one file"
        return paths

    @property
    def spec(self) -> ReaderSpec:
        found = {spec.name: spec for spec in load_registry().readers}
        assert self.reader in found, f"no installed plugin declares the reader {self.reader}"
        return found[self.reader]

    def build(self) -> Reader:
        return build_reader(self.spec, {self.reader: dict(self.options)})

    def test_it_alone_claims_its_files(self, given: Sequence[Path]) -> None:
        for path in given:
            assert find_reader(path, load_registry(), {self.reader: dict(self.options)})[0].name == self.reader

    def test_all_files_of_a_group_name_the_same_group(self, given: Sequence[Path]) -> None:
        reader = self.build()
        for path in given:
            group = reader.group(path)
            assert path in group
            assert len(set(group)) == len(group)
            assert all(member.is_file() for member in group)
            claimed = [member for member in group if reader.claims(member)]
            assert group[0] in claimed
            assert [reader.group(member) for member in claimed] == [group] * len(claimed)

    @pytest.mark.parametrize("content", STRANGERS)
    def test_files_of_others_are_not_claimed(self, content: str, given: Sequence[Path], tmp_path: Path) -> None:
        (tmp_path / "strange").mkdir()
        for path in given:
            stranger = tmp_path / "strange" / path.name
            stranger.write_bytes(STRANGERS[content])
            assert not self.claims(stranger), f"{path.name}, {content}"

    def test_foreign_fits_files_are_not_claimed(self, given: Sequence[Path], tmp_path: Path) -> None:
        from astropy.io import fits

        empty, image = fits.PrimaryHDU(), fits.ImageHDU(np.zeros((5, 5), np.float32))
        table = fits.BinTableHDU.from_columns([fits.Column("height", "D", array=np.ones(3))])
        (tmp_path / "strange").mkdir()
        for path in given:
            for hdus in ([empty], [empty, image], [empty, table], [fits.PrimaryHDU(np.zeros((9, 9)))]):
                stranger = tmp_path / "strange" / path.name
                with stranger.open("wb") as file:  # astropy takes names such as x.zip for a wish to compress
                    fits.HDUList(hdus).writeto(file)
                assert not self.claims(stranger)

    def test_objects_are_what_they_were_declared_to_be(self, given: Sequence[Path]) -> None:
        declared = load_registry().modalities
        for path in given:
            for batch in self.build().read(path, 100):
                assert batch.object_id.dtype.kind == "U"
                assert (batch.object_id != "").all()
                assert batch.ra.dtype == batch.dec.dtype == np.float64  # in native byte order
                assert not ((batch.ra < 0) | (batch.ra >= 360)).any()
                assert batch.data.keys() <= set(self.spec.modalities)
                assert batch.data.keys() <= declared.keys()
                for key, (observation, rows) in batch.data.items():
                    assert type(observation).__name__.lower() == _class_of(declared[key].kind) or (
                        declared[key].kind == "other"
                    ), key
                    assert rows.dtype == np.int64
                    assert len(observation) == len(rows)

    def test_objects_come_in_batches_of_the_size_asked_for(self, given: Sequence[Path]) -> None:
        for path in given:
            assert all(len(batch) <= 3 for batch in self.build().read(path, 3))

    def test_measured_values_are_finite_where_no_mask_says_otherwise(self, given: Sequence[Path]) -> None:
        for path in given:
            for name, one in self.objects(path, 100).items():
                for array in ("flux", "value"):
                    for key in {place[0] for place in one if isinstance(place, tuple) and place[1] == array}:
                        bad = one.get((key, "mask"), np.zeros((), bool)) | (one.get((key, "ivar"), np.ones(())) <= 0)
                        good = np.isfinite(one[key, array]) | bad
                        assert good.all(), f"{path.name}: {name}, {key}"

    def test_objects_are_the_same_for_every_batch_size(self, given: Sequence[Path]) -> None:
        for path in given:
            ones, sevens, all_at_once = (self.objects(path, size) for size in (1, 7, 1000))
            assert list(ones) == list(sevens) == list(all_at_once)
            for name, one in all_at_once.items():
                same(one, ones[name], f"{path.name}: {name}")
                same(one, sevens[name], f"{path.name}: {name}")
            listed = [[s for b in self.build().read(path, size) for s in b.skipped] for size in (1, 7, 1000)]
            assert listed[0] == listed[1] == listed[2]

    def test_a_modality_is_the_same_whatever_else_is_wanted(self, given: Sequence[Path]) -> None:
        for path in given[:1]:
            whole = self.objects(path, 100)
            for key in {place[0] for one in whole.values() for place in one if isinstance(place, tuple)}:
                found = dict(one for batch in self.build().wanting([key]).read(path, 100) for one in _split(batch))
                assert list(found) == list(whole)
                for name, one in found.items():
                    of_key, known = ({k: v for k, v in o.items() if k[0] == key} for o in (one, whole[name]))
                    same(of_key, known, f"{path.name}: {name}, {key} alone")

    def test_a_compressed_file_reads_as_the_file_itself(self, given: Sequence[Path], tmp_path: Path) -> None:
        from fnmatch import fnmatchcase

        for path in given:
            packed = tmp_path / f"{path.name}.gz"
            fits = any(fnmatchcase(packed.name.lower(), pattern.lower()) for pattern in self.spec.patterns)
            if not fits or len(self.build().group(path)) > 1:
                continue
            packed.write_bytes(gzip.compress(path.read_bytes(), 1))
            assert self.claims(packed)
            plain, found = self.objects(path, 100), self.objects(packed, 100)
            assert len(plain) == len(found)
            for one, other in zip(plain.values(), found.values(), strict=True):
                same(one, other, packed.name)

    def test_a_file_cut_short_is_refused_or_loses_whole_objects_only(
        self, given: Sequence[Path], tmp_path: Path
    ) -> None:
        for place, path in enumerate(given):
            group = self.build().group(path)
            whole = self.objects(path, 100)
            for member in group:
                for cut in self.cuts if place == 0 else self.cuts[::4]:
                    folder = tmp_path / f"cut-{place}-{member.name}-{cut}"
                    folder.mkdir()
                    for other in group:
                        shutil.copyfile(other, folder / other.name)
                    content = member.read_bytes()
                    (folder / member.name).write_bytes(content[: max(1, int(len(content) * cut))])
                    self.check_cut(folder / path.name, whole)

    def check_cut(self, path: Path, whole: Mapping[str, Object]) -> None:
        """Assert that reading a cut file ends in a sentence about it, or in objects of the whole one."""
        if not self.claims(path):
            return
        found: list[tuple[str, Object]] = []
        try:
            for batch in self.build().read(path, 100):
                found += _split(batch)
        except InputError as error:
            sentence = str(error)
            if not any(str(member) in sentence for member in path.parent.iterdir()):
                pytest.fail(f"the sentence names no file: {sentence}")
        for name, one in found if self.shows_cuts else found[:-1]:
            assert name in whole
            for what in one.keys() & whole[name].keys():
                same({what: one[what]}, {what: whole[name][what]}, f"{path.name}: {name}")

    def test_a_file_that_is_not_there_is_named(self, given: Sequence[Path]) -> None:
        for path in given:
            absent = path.with_name(f"absent-{path.name}")
            with pytest.raises((InputError, FileNotFoundError), match="absent-"):
                list(self.build().read(absent, 10))

    def claims(self, path: Path) -> bool:
        """Ask the reader; a reason why not counts as no."""
        try:
            return self.build().claims(path)
        except NotClaimedError as error:
            if not str(error).startswith(str(path)):
                pytest.fail(f"a reason not to claim a file begins with its path: {error}")
            return False

    def objects(self, path: Path, size: int) -> dict[str, Object]:
        """Read a file: ``{object_id: {"ra": …, (key, array): …}}``; identifiers must be unique."""
        found = [one for batch in self.build().read(path, size) for one in _split(batch)]
        objects = dict(found)
        assert len(objects) == len(found), f"{path.name}: object identifiers occur twice"
        assert objects, f"{path.name}: no object"
        return objects


def same(one: Object, other: Object, where: str) -> None:
    """Assert that two objects are the same, bit for bit."""
    assert one.keys() == other.keys(), where
    for name, value in one.items():
        np.testing.assert_array_equal(value, other[name], err_msg=f"{where}, {name}")


def _split(batch: ObservationBatch) -> Iterator[tuple[str, Object]]:
    """Yield name and content of each object of a batch."""
    found: list[Object] = [{"ra": ra, "dec": dec} for ra, dec in zip(batch.ra, batch.dec, strict=True)]
    for key, (observation, rows) in batch.data.items():
        for name, array in _arrays(observation, len(rows)).items():
            for i, row in enumerate(rows):
                found[row][key, name] = array[i]
    yield from zip(map(str, batch.object_id), found, strict=True)


def _arrays(observation: Observation, size: int) -> dict[str, Any]:
    """Return the arrays of an observation, each with one item an object; what all share is repeated."""
    arrays: dict[str, Any] = {}
    for name, value in vars(observation).items():
        if isinstance(value, torch.Tensor):
            array = value.cpu().numpy()
            arrays[name] = array if name in observation.batched else np.broadcast_to(array, (size, *array.shape))
            if isinstance(observation, SourceList):  # padded to the longest list, whatever that is in this batch
                arrays[name] = [sources[np.isfinite(sources)] for sources in array]
    return arrays


def _class_of(kind: str) -> str:
    return {"coefficients": "scalar"}.get(kind, kind.replace("_", ""))
