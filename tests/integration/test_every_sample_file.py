"""What is expected of every real file at hand: its reader, its objects and their modalities, or why it is refused.

The numbers stand in the folder's README, or were counted in the files with plain astropy, NumPy and json; where they
are many, they are counted so here. Nothing is taken from what our readers said.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table

from aion_core.data.pipeline import FileResult, describe_files
from aion_core.plugins import load_registry

SPECTRUM = {"sdss_spectrum": 1}
REDSHIFT = {"catalog_redshift": 1}
XP = ("gaia_xp_bp", "gaia_xp_rp")
GAIA = {f"gaia_{name}": name for name in ("parallax", "ra", "dec")} | {
    f"gaia_flux_{band}": f"phot_{band}_mean_flux" for band in ("g", "bp", "rp")
}
WISE = ("w1", "w2", "w3", "w4")
SHAPE = ("legacy_ebv", *(f"legacy_shape_{name}" for name in ("r", "e1", "e2")))


def each(count: int, *keys: str) -> dict[str, int]:
    return dict.fromkeys(keys, count)


def fluxes(*bands: str) -> tuple[str, ...]:
    return tuple(f"legacy_flux_{band}" for band in bands)


@dataclass(frozen=True)
class Claim:
    """What a file must come to: `reason` is a part of the sentence where it is not simply readable."""

    status: str
    reader: str | None = None
    objects: int = 0
    modalities: Mapping[str, int] | None = None
    skipped: int = 0
    reason: str = ""


def readable(reader: str, objects: int, modalities: Mapping[str, int], skipped: int = 0) -> Claim:
    return Claim("readable", reader, objects, modalities, skipped)


def refused(reason: str) -> Claim:
    return Claim("not claimed", reason=reason)


def part(reader: str, lead: str) -> Claim:
    """Read together with another file, under whose name its objects stand."""
    return Claim("part", reader, reason=rf"read together with \S*{re.escape(lead)}")


TRACTOR = each(6, *fluxes("g", "r", "z", *WISE), *SHAPE, "catalog_sources")
DR9_ROW = each(1, *fluxes("g", "r", "z", *WISE), *SHAPE, "catalog_sources")
TARGET = (*fluxes("g", "r", "z", "w1", "w2"), *SHAPE)  # what a FIBERMAP has of the Legacy Surveys
ONE_XP = readable("gaia_table", 1, each(1, *XP))
TWO_XP = readable("gaia_table", 2, each(2, *XP))
NO_TABLE_OF_OURS = r"name its columns in \[\[catalog_tables\.tables\]\]"

CLAIMS: dict[str, Claim] = {
    "README.md": refused("no installed reader takes a file of this name"),
    # DESI. FIBERMAP: one target with photometry; two of five rows are targets, one is sky, two are unassigned.
    "desi/fastspecfit/coadd-4-80613-thru20210324.fits": readable(
        "desi_files", 1, each(1, "desi_spectrum", "catalog_redshift", *TARGET)
    ),
    "desi/fastspecfit/redrock-4-80613-thru20210324.fits": part("desi_files", "coadd-4-80613-thru20210324.fits"),
    "desi/picca/QSO_cat_fuji_dark_healpix.fits.gz": readable("desi_files", 175, each(175, "catalog_redshift")),
    "desi/picca/QSO_cat_fuji_dark_tile.fits.gz": readable("desi_files", 10, each(10, "catalog_redshift")),
    "desi/picca/coadd-1-80693-thru20210204.fits": readable("desi_files", 5, each(5, "desi_spectrum")),
    "desi/picca/coadd-sv3-dark-9144.fits": readable("desi_files", 2, each(2, "desi_spectrum")),
    "desi/specutils/coadd-sv3-dark-26065.fits": readable("desi_files", 2, each(2, "desi_spectrum", *TARGET), skipped=3),
    # Gaia. 1710099405832VAL, 1712337806100O, cone_search and chunk-05483 are counted column by column below.
    "gaia/astroquery/1710099405832VAL-result.vot": readable("gaia_table", 2, each(2, *GAIA)),
    "gaia/astroquery/1712337806100O-result.ecsv": readable("gaia_table", 5, each(5, *GAIA) | {"gaia_parallax": 3}),
    "gaia/astroquery/XP_CONTINUOUS-Gaia_DR3_5937083312263887616.csv": ONE_XP,
    "gaia/astroquery/XP_CONTINUOUS-Gaia_DR3_5937083312263887616.fits": ONE_XP,
    "gaia/astroquery/XP_SAMPLED-Gaia_DR3_5937083312263887616.csv": refused("retrieval_type='XP_CONTINUOUS'"),
    "gaia/astroquery/XP_SAMPLED-Gaia_DR3_5937083312263887616.fits": refused("retrieval_type='XP_CONTINUOUS'"),
    "gaia/astroquery/cone_search.json": readable("gaia_table", 50, each(50, *GAIA) | {"gaia_parallax": 44}),
    "gaia/gaiaxpy/18Sco-XP-spectra.csv": readable("gaia_table", 1, each(1, *XP, "gaia_flux_g")),
    "gaia/gaiaxpy/XP_CONTINUOUS_RAW.csv": TWO_XP,
    "gaia/gaiaxpy/XP_CONTINUOUS_RAW.fits": TWO_XP,
    "gaia/gaiaxpy/XP_CONTINUOUS_RAW.xml": TWO_XP,
    "gaia/gaiaxpy/XP_CONTINUOUS_RAW_with_missing_BP.csv": readable("gaia_table", 3, {XP[0]: 2, XP[1]: 3}),
    "gaia/legacypipe/chunk-05483.fits": readable(
        "gaia_table",
        884,
        each(884, *GAIA) | each(884 - 52, "gaia_flux_bp", "gaia_flux_rp") | {"gaia_parallax": 884 - 109},
    ),
    "gaia/xp_coefficients_only/gaia_dr3_xp_c110_binary_subset.npz": readable("gaia_xp_arrays", 2815, each(2815, *XP)),
    # Galaxy Zoo: votes, for which there is no key.
    "galaxyzoo/example_ring_catalog_basic.csv": refused(NO_TABLE_OF_OURS),
    "galaxyzoo/gz2_table5_subset.fits.gz": refused(NO_TABLE_OF_OURS),
    # HSC: one field in g, r, i. The small stamps state no zero point, the PSFs are no images of the sky.
    "hsc/multiprofit/222.51551376,0.09749601_300x300_g.fits": readable("hsc_image", 1, {"hsc_image": 1}),
    "hsc/multiprofit/222.51551376,0.09749601_300x300_i.fits": part("hsc_image", "300x300_g.fits"),
    "hsc/multiprofit/222.51551376,0.09749601_300x300_r.fits": part("hsc_image", "300x300_g.fits"),
    **{f"hsc/multiprofit/222.51551376,0.09749601_{band}_psf.fits": refused("PSF") for band in "gri"},
    "hsc/scarlet/Cut_HSC.fits": refused("without a zero point"),
    "hsc/scarlet/Cut_HSC1.fits": refused("without a zero point"),
    "hsc/scarlet/PSF_HSC.fits": refused("without coordinates"),
    "hsc/scarlet/hsc_cosmos_35.npz": refused("without a zero point"),
    # Legacy Surveys. targets.fits has no w3, w4, E(B−V) or shape; the early tractor rows have z and WISE only.
    "legacysurvey/desitarget/sweep-310m005-320p000.fits": readable("legacy_catalogue", 6, TRACTOR),
    "legacysurvey/desitarget/sweep-320m005-330p000.fits": readable("legacy_catalogue", 6, TRACTOR),
    "legacysurvey/desitarget/targets.fits": readable(
        "legacy_catalogue", 1001, each(1001, *fluxes("g", "r", "z", "w1", "w2"))
    ),
    "legacysurvey/desitarget/tractor-3301m002.fits": readable("legacy_catalogue", 6, TRACTOR),
    "legacysurvey/desitarget/tractor-3301m007.fits": readable("legacy_catalogue", 6, TRACTOR),
    "legacysurvey/desitarget_dr6_crop/legacysurvey-0959p805-image-g-crop.fits.fz": readable(
        "legacy_image", 1, each(1, "legacy_image", "legacy_segmap")
    ),
    "legacysurvey/desitarget_dr6_crop/legacysurvey-0959p805-invvar-g-crop.fits.fz": part(
        "legacy_image", "image-g-crop.fits.fz"
    ),
    "legacysurvey/desitarget_dr6_crop/legacysurvey-0959p805-nexp-g-crop.fits.fz": refused("nexp"),
    "legacysurvey/fastspecfit/tractor-1054p567.fits": readable("legacy_catalogue", 1, DR9_ROW),
    "legacysurvey/pysersic/copsf_59.1067_-30.4848.fits": refused("PSF"),
    "legacysurvey/pysersic/cutout_59.1067_-30.4848.fits": readable(
        "legacy_image", 1, each(1, "legacy_image", "legacy_segmap")
    ),
    "legacysurvey/tractor_single_exposure/decam-520206-S16-image-sub.fits": refused("ADU"),
    "legacysurvey/tractor_single_exposure/decam-520206-S16-invvar-sub.fits": refused("ADU"),
    "legacysurvey/tractor_single_exposure/decam-520206-S16-psfex.fits": refused(""),
    "legacysurvey/tractor_single_exposure/tractor-1816p325-sub.fits": readable(
        "legacy_catalogue", 2, each(2, *fluxes("z", *WISE), *SHAPE, "catalog_sources")
    ),
    # Multimodal Universe: light curves.
    "mmu/SN2007bc.hdf5": refused(""),
    "mmu/example_SN2004dt.hdf5": refused(""),
}
#: SDSS files hold one spectrum each. ZWARNING is 4 and 6 for these two, so that there is no redshift; the second has no
#: pixel with weight.
UNSURE, EMPTY = "sdss/boss_eboss_lite/spec-3655-55240-0330.fits", "sdss/legacy_lite/spec-0269-51581-0003.fits"


def expected(name: str) -> Claim:
    if name == EMPTY:
        return Claim("nothing", "sdss_spectra", skipped=1, reason="none of its 1 objects .* every pixel is masked")
    if name.startswith("sdss/"):
        return readable("sdss_spectra", 1, SPECTRUM if name == UNSURE else SPECTRUM | REDSHIFT)
    return CLAIMS[name]


@pytest.fixture(scope="module")
def described(sample_dir: Path) -> dict[str, FileResult]:
    report = describe_files([sample_dir], load_registry())
    return {str(result.path.relative_to(sample_dir)): result for result in report.files}


def test_every_file_becomes_what_it_holds(described: dict[str, FileResult]) -> None:
    wrong = []
    for name, found in described.items():
        claim = expected(name)
        told = {key: count for key, count in found.modalities.items() if count}
        if (found.status, found.reader, found.objects, told, found.skipped.count) != (
            *(claim.status, claim.reader, claim.objects),
            *(dict(claim.modalities or {}), claim.skipped),
        ):
            wrong.append(f"{name}: expected {claim}, found {found}")
        elif not re.search(claim.reason, found.reason or ""):
            wrong.append(f"{name}: expected '{claim.reason}' in '{found.reason}'")
    assert not wrong, "\n".join(wrong)


def test_every_claim_is_about_a_file_that_is_there(described: dict[str, FileResult]) -> None:
    assert sorted(CLAIMS.keys() - described.keys()) == []
    assert sum(name.startswith("sdss/") for name in described) == 32
    assert len(described) == 82 + 1  # the README counts data files


def test_nothing_failed_and_every_reason_names_its_file(described: dict[str, FileResult], sample_dir: Path) -> None:
    for name, found in described.items():
        assert found.status != "failed", found.reason
        assert (found.reason is None) == (found.status == "readable"), name
        if found.reason is not None:
            assert found.reason.startswith(f"{sample_dir / name}: "), name
            assert found.reason.endswith("."), found.reason


# --- the numbers above, counted in the files ---


def test_gaia_rows_have_the_values_that_the_files_hold(sample_dir: Path) -> None:
    folder = sample_dir / "gaia/astroquery"
    result = json.loads((folder / "cone_search.json").read_text())
    place = {field["name"]: i for i, field in enumerate(result["metadata"])}
    counts = {key: sum(row[place[name]] is not None for row in result["data"]) for key, name in GAIA.items()}
    assert counts == CLAIMS["gaia/astroquery/cone_search.json"].modalities
    for name, form in (("1710099405832VAL-result.vot", "votable"), ("1712337806100O-result.ecsv", "ascii.ecsv")):
        assert _finite(Table.read(folder / name, format=form)) == CLAIMS[f"gaia/astroquery/{name}"].modalities
    rows = Table.read(sample_dir / "gaia/legacypipe/chunk-05483.fits")
    magnitudes = {name.replace("_mag", "_flux"): rows[name] for name in rows.colnames if name.endswith("_mean_mag")}
    found = _finite(Table({name: rows[name] for name in ("parallax", "ra", "dec")} | magnitudes))
    assert found == CLAIMS["gaia/legacypipe/chunk-05483.fits"].modalities


def _finite(table: Table) -> dict[str, int]:
    columns = {
        name.lower(): np.ma.filled(np.ma.asarray(table[name], float), np.nan)
        for name in table.colnames
        if name.lower() in GAIA.values()
    }
    return {key: int(np.isfinite(columns[name]).sum()) for key, name in GAIA.items()}


def test_the_two_sdss_files_without_a_redshift_are_those_that_warn(sample_dir: Path) -> None:
    warned, weightless = set(), set()
    for path in (sample_dir / "sdss").rglob("*.fits"):
        with fits.open(path) as hdus:
            name = str(path.relative_to(sample_dir))
            warned |= {name} if hdus[2].data["ZWARNING"][0] else set()
            weightless |= set() if (hdus[1].data["ivar"] > 0).any() else {name}
    assert warned == {UNSURE, EMPTY}
    assert weightless == {EMPTY}


def test_desi_rows_are_targets_with_light(sample_dir: Path) -> None:
    for name, claim in CLAIMS.items():
        if "desi_spectrum" not in (claim.modalities or {}):
            continue
        with fits.open(sample_dir / name) as hdus:
            light = np.sum([(hdus[f"{arm}_IVAR"].data > 0).sum(axis=1) for arm in "BRZ"], axis=0)
            assert len(light) == claim.objects + claim.skipped
            assert (light > 0).sum() == claim.objects


def test_the_early_tractor_rows_were_observed_in_z_only(sample_dir: Path) -> None:
    rows = Table.read(sample_dir / "legacysurvey/tractor_single_exposure/tractor-1816p325-sub.fits")
    assert ((np.asarray(rows["decam_flux_ivar"]) > 0) == [False, False, False, False, True, False]).all()  # ugrizY
    assert (np.asarray(rows["wise_flux_ivar"]) > 0).all()
