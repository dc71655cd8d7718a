"""DESI files against values read from them independently."""

from __future__ import annotations

import gzip
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from aion_tok_desi.reader import DesiReader
from astropy.io import fits

from aion_core.contract import InputError
from aion_core.data import ObservationBatch
from aion_core.data.files import find_files, find_reader, sample_files
from aion_core.plugins import load_registry
from aion_core.testing import ReaderContract

GALAXY = "39633345008634465"
LRGS = ["39627866878511337", "39627866878514741"]


class TestContract(ReaderContract):
    reader = "desi_files"

    def files(self, folder: Path) -> list[Path]:
        samples = {path.name: path for path in sample_files(load_registry())}
        return [samples["coadd-sv3-dark-26065.fits"], samples["spectra-5-169-thru20210419.fits"]]


def read(path: Path, size: int = 100, **options: Any) -> ObservationBatch:
    """Return all of a small file as one batch."""
    reader = DesiReader(DesiReader.Options(**options))
    assert reader.claims(path)
    (batch,) = reader.read(reader.group(path)[0], size)
    return batch


def scalars(batch: ObservationBatch) -> list[dict[str, float]]:
    """Return the scalars of each object by key."""
    found: list[dict[str, float]] = [{} for _ in batch.object_id]
    for key, (observation, rows) in batch.data.items():
        if hasattr(observation, "value"):
            for value, row in zip(observation.value.tolist(), rows, strict=True):
                found[row][key] = value
    return found


@pytest.fixture
def desi(sample_dir: Path) -> Path:
    return sample_dir / "desi"


@pytest.fixture
def coadd_and_redrock(desi: Path) -> tuple[Path, Path]:
    folder = desi / "fastspecfit"
    return folder / "coadd-4-80613-thru20210324.fits", folder / "redrock-4-80613-thru20210324.fits"


# --- real files ---


def test_a_coadd_gives_spectrum_photometry_position_and_the_redshift_of_the_redrock_file_beside(
    coadd_and_redrock: tuple[Path, Path],
) -> None:
    path, redrock = coadd_and_redrock
    assert DesiReader().group(path) == DesiReader().group(redrock) == (path, redrock)
    batch = read(path)
    row = fits.getdata(path, "FIBERMAP")[0]
    assert (batch.object_id.tolist(), batch.skipped) == ([GALAXY], ())
    assert (batch.ra[0], batch.dec[0]) == (row["TARGET_RA"], row["TARGET_DEC"])
    (found,) = scalars(batch)
    assert found.pop("catalog_redshift") == pytest.approx(0.36874, abs=5e-6)
    fluxes = {f"legacy_flux_{b}": row[f"FLUX_{b.upper()}"] for b in ("g", "r", "z", "w1", "w2")}
    shapes = {f"legacy_shape_{a}": row[f"SHAPE_{a.upper()}"] for a in ("r", "e1", "e2")}
    assert found == fluxes | shapes | {"legacy_ebv": row["EBV"]}


@pytest.mark.parametrize(
    "name",
    [
        "fastspecfit/coadd-4-80613-thru20210324",
        "picca/coadd-1-80693-thru20210204",
        "picca/coadd-sv3-dark-9144",
        "specutils/coadd-sv3-dark-26065",
    ],
)
def test_cameras_are_joined_with_the_inverse_variance(desi: Path, name: str) -> None:
    path = desi / f"{name}.fits"
    batch = read(path)
    spectrum = batch.data["desi_spectrum"][0]
    assert tuple(spectrum.flux.shape) == (len(batch), 7781)
    np.testing.assert_allclose(spectrum.wavelength[0], np.linspace(3600, 9824, 7781), rtol=1e-7)
    with fits.open(path) as hdus:
        ids = hdus["FIBERMAP"].data["TARGETID"].astype(str).tolist()
        for i, target in enumerate(batch.object_id):
            total, weight = np.zeros((2, 7781))
            for camera, first in (("B", 0), ("R", 2700), ("Z", 4900)):
                row = ids.index(str(target))
                flux, ivar, mask = (hdus[f"{camera}_{p}"].data[row] for p in ("FLUX", "IVAR", "MASK"))
                part = slice(first, first + len(flux))
                ivar = np.where(mask == 0, ivar, 0).astype(np.float64)
                total[part] += ivar * flux
                weight[part] += ivar
            good = weight > 0
            assert spectrum.mask[i].tolist() == (~good).tolist()
            np.testing.assert_allclose(spectrum.ivar[i], weight, rtol=1e-6)
            mean = total[good] / weight[good]
            np.testing.assert_allclose(spectrum.flux[i].numpy()[good], mean, rtol=1e-5, atol=1e-6)


def test_masked_pixels_of_a_real_coadd_are_bad(desi: Path) -> None:
    path = desi / "specutils/coadd-sv3-dark-26065.fits"
    spectrum = read(path).data["desi_spectrum"][0]
    with fits.open(path) as hdus:
        bad = {camera: int((hdus[f"{camera}_MASK"].data[2] != 0).sum()) for camera in "BRZ"}
    assert bad == {"B": 0, "R": 16, "Z": 19}
    assert int(spectrum.mask[0].sum()) == 16 + 19  # none of them in an overlap
    assert not spectrum.mask[1].any()


def test_sky_dead_fibres_and_unassigned_ones_are_told_apart(desi: Path) -> None:
    path = desi / "specutils/coadd-sv3-dark-26065.fits"
    batch = read(path)
    assert batch.object_id.tolist() == LRGS
    assert [(s.name, s.reason) for s in batch.skipped] == [
        ("row 1 (TARGETID -2713437)", "no target is assigned to the fibre (OBJTYPE '', COADD_FIBERSTATUS 1)"),
        ("row 2 (TARGETID -2713415)", "no target is assigned to the fibre (OBJTYPE '', COADD_FIBERSTATUS 1033)"),
        ("row 4 (TARGETID 616088619186127404)", "the fibre was put on blank sky"),
    ]
    reasons = [skipped.reason for skipped in read(path, sky=True).skipped]
    assert reasons[-1] == "the fibre is unusable: BADPOSITION (COADD_FIBERSTATUS 520)"


def test_rows_of_a_spectra_file_are_single_exposures() -> None:
    spectra = {path.name: path for path in sample_files(load_registry()) if path.name.startswith("spectra-")}
    batch = read(spectra["spectra-sv3-dark-26065.fits"])
    assert batch.object_id.tolist() == [f"{LRGS[0]}-83734"]
    assert batch.skipped[-1].reason == "the fibre is unusable: BADPOSITION (FIBERSTATUS 512)"
    assert scalars(batch)[0]["legacy_flux_z"] == pytest.approx(9.925692, abs=1e-6)


def test_a_reduced_fibermap_gives_what_it_has(desi: Path) -> None:
    tile, healpix = read(desi / "picca/coadd-1-80693-thru20210204.fits"), read(desi / "picca/coadd-sv3-dark-9144.fits")
    assert (len(tile), len(healpix)) == (5, 2)
    assert tile.data.keys() == healpix.data.keys() == {"desi_spectrum"}
    table = fits.getdata(desi / "picca/coadd-1-80693-thru20210204.fits", "FIBERMAP")
    assert tile.ra.tolist() == table["TARGET_RA"].tolist()
    assert np.isnan(healpix.ra).all()
    assert np.isnan(healpix.dec).all()


def test_redshifts_of_a_catalogue_are_looked_up_by_targetid(desi: Path) -> None:
    for coadd, catalogue in (("coadd-1-80693-thru20210204", "tile"), ("coadd-sv3-dark-9144", "healpix")):
        source = desi / f"picca/QSO_cat_fuji_dark_{catalogue}.fits.gz"
        batch = read(desi / f"picca/{coadd}.fits", redshifts=source)
        table = fits.getdata(source, 1)
        known = dict(zip(table["TARGETID"].tolist(), table["Z"].tolist(), strict=True))
        redshift, rows = batch.data["catalog_redshift"]
        assert len(rows) == len(batch)
        assert redshift.value.numpy() == pytest.approx([known[int(name)] for name in batch.object_id])
    assert redshift.value.tolist() == pytest.approx([1.937, 2.158], abs=1e-3)


def test_redshift_catalogues_are_read_by_themselves(desi: Path) -> None:
    for name, count in (("tile", 10), ("healpix", 175)):
        path = desi / f"picca/QSO_cat_fuji_dark_{name}.fits.gz"
        batch = read(path, size=500)
        table = fits.getdata(path, 1)
        assert len(batch) == count
        assert batch.object_id.tolist() == table["TARGETID"].astype(str).tolist()
        assert batch.dec.tolist() == table["TARGET_DEC"].tolist()
        assert batch.data["catalog_redshift"][0].value.numpy() == pytest.approx(table["Z"])


def test_a_redrock_file_alone_has_position_photometry_and_redshift(
    coadd_and_redrock: tuple[Path, Path], tmp_path: Path
) -> None:
    path = Path(shutil.copy(coadd_and_redrock[1], tmp_path))
    assert DesiReader().group(path) == (path,)
    batch = read(path)
    (found,) = scalars(batch)
    assert found["catalog_redshift"] == pytest.approx(0.36874, abs=5e-6)
    assert found["legacy_flux_r"] == pytest.approx(5.947273)
    assert batch.ra[0] == pytest.approx(105.48977452)


def test_spectra_take_the_redrock_file_where_there_is_no_coadd(
    coadd_and_redrock: tuple[Path, Path], tmp_path: Path
) -> None:
    for kind, name in zip(("spectra", "redrock"), ("4-80613", "4-80613"), strict=True):
        source = coadd_and_redrock[kind == "redrock"]
        shutil.copy(source, tmp_path / f"{kind}-{name}.fits")
    spectra, redrock = tmp_path / "spectra-4-80613.fits", tmp_path / "redrock-4-80613.fits"
    assert DesiReader().group(spectra) == DesiReader().group(redrock) == (spectra, redrock)
    shutil.copy(coadd_and_redrock[0], tmp_path / "coadd-4-80613.fits.gz")
    assert DesiReader().group(spectra) == (spectra,)
    assert DesiReader().group(redrock) == (tmp_path / "coadd-4-80613.fits.gz", redrock)


def test_every_real_file_is_claimed_and_no_other(sample_dir: Path) -> None:
    registry = load_registry()
    for path in find_files([sample_dir / "desi"]):
        assert find_reader(path, registry)[0].name == "desi_files"
    for folder in ("gaia", "galaxyzoo", "hsc", "legacysurvey", "mmu", "sdss"):
        for path in find_files([sample_dir / folder]):
            assert not DesiReader().claims(path), path


def test_a_compressed_coadd_is_the_same(desi: Path, tmp_path: Path) -> None:
    path = desi / "picca/coadd-sv3-dark-9144.fits"
    packed = tmp_path / "coadd-sv3-dark-9144.fits.gz"
    packed.write_bytes(gzip.compress(path.read_bytes(), 1))
    one, other = read(path).data["desi_spectrum"][0], read(packed).data["desi_spectrum"][0]
    assert (one.flux == other.flux).all()
    assert (one.mask == other.mask).all()


# --- damaged files ---


@pytest.mark.parametrize("share", [0.5, 0.9])
def test_a_file_cut_short_is_refused_with_its_hdu(desi: Path, tmp_path: Path, share: float) -> None:
    content = (desi / "picca/coadd-sv3-dark-9144.fits").read_bytes()
    path = tmp_path / "coadd-cut.fits"
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(InputError, match=r"coadd-cut\.fits: the file is cut short .*HDU \d+ [BRZ]_"):
        read(path)


def test_damage_of_the_redrock_file_is_blamed_on_it(coadd_and_redrock: tuple[Path, Path], tmp_path: Path) -> None:
    coadd, redrock = (Path(shutil.copy(path, tmp_path)) for path in coadd_and_redrock)
    redrock.write_bytes(redrock.read_bytes()[:9000])
    with pytest.raises(InputError, match=r"redrock-4-80613-thru20210324\.fits: the file is cut short"):
        read(coadd)
