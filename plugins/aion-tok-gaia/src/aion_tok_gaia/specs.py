"""What Gaia measures: BP and RP spectra as coefficients, three mean fluxes, parallax and position.

Fluxes and coefficients are photo-electrons per second, as in the archive; positions are ICRS at epoch 2016.0.

Sources: release Gaia Collaboration, Vallenari et al. 2023 (A&A 674, A1); spectra De Angeli et al. 2023 (A&A 674, A2);
photometry Riello et al. 2021 (A&A 649, A3); astrometry Lindegren et al. 2021 (A&A 649, A2).
"""

from __future__ import annotations

from math import exp

from aion_core.contract import ModalitySpec, Provenance, TokenizerSpec

#: The first 63 bits of SHA-256 of ``urn:aion:<key>``; written out because they may never change.
PROVENANCE = {
    "gaia_xp_bp": 2966503968296994201,
    "gaia_xp_rp": 6362145669519661926,
    "gaia_flux_g": 6604125397959765099,
    "gaia_flux_bp": 8447713968569772242,
    "gaia_flux_rp": 8885203054508540526,
    "gaia_parallax": 1947342389258363522,
    "gaia_ra": 6235808139651759061,
    "gaia_dec": 2412021955334738699,
}

RELEASE_PAPER = "Gaia Collaboration, Vallenari et al. 2023, A&A 674, A1"
SPECTRA_PAPER = "De Angeli et al. 2023, A&A 674, A2"
PHOTOMETRY_PAPER = "Riello et al. 2021, A&A 649, A3"
ASTROMETRY_PAPER = "Lindegren et al. 2021, A&A 649, A2"

PLAIN = TokenizerSpec(path="aion_core.tokenizers.scalar:QuantileTokenizer")
#: Values below exp(-3), negative parallaxes included, share the lowest code.
LOGARITHMIC = TokenizerSpec(path="aion_core.tokenizers.scalar:LogQuantileTokenizer", config={"min_value": exp(-3)})
COEFFICIENTS = TokenizerSpec(path="aion_core.tokenizers.scalar:CoefficientTokenizer")


def _provenance(key: str, instrument: str) -> Provenance:
    return Provenance(id=PROVENANCE[key], instrument=instrument, release="DR3", doi="10.1051/0004-6361/202243940")


def _scalar(
    name: str, upstream: str, column: str, title: str, quantity: str, units: str, tokenizer: TokenizerSpec
) -> ModalitySpec:
    key = f"gaia_{name}"
    photometry = quantity.startswith("phot")
    return ModalitySpec(
        key=key,
        upstream_key=upstream,
        upstream_codec=column,
        survey="Gaia",
        title=title,
        citation=f"{RELEASE_PAPER}; {PHOTOMETRY_PAPER if photometry else ASTROMETRY_PAPER}",
        kind="scalar",
        quantity=quantity,
        units=units,
        vocab_size=1024,
        shape=(1,),
        position="scalar",
        provenance=_provenance(key, "Gaia photometers" if photometry else "Gaia astrometric field"),
        tokenizer=tokenizer,
    )


def _spectrum(band: str, ucd: str) -> ModalitySpec:
    key = f"gaia_xp_{band}"
    return ModalitySpec(
        key=key,
        upstream_key=f"tok_xp_{band}",
        upstream_codec=f"{band}_coefficients",
        survey="Gaia",
        title=f"{band.upper()} mean spectrum, 55 basis-function coefficients",
        citation=f"{RELEASE_PAPER}; {SPECTRA_PAPER}",
        kind="coefficients",
        quantity=f"stat.fit.param;{ucd}",
        units="electron / s",
        vocab_size=1024,
        shape=(55,),
        position="grid2d",
        provenance=_provenance(key, f"Gaia {band.upper()} spectrophotometer"),
        tokenizer=COEFFICIENTS,
    )


def _flux(band: str, ucd: str) -> ModalitySpec:
    return _scalar(
        f"flux_{band}",
        f"tok_flux_{band}_gaia",
        f"phot_{band}_mean_flux",
        f"{band.upper()}-band mean flux",
        f"phot.flux;{ucd}",
        "electron / s",
        LOGARITHMIC,
    )


MODALITIES = (
    _spectrum("bp", "em.opt.B"),
    _spectrum("rp", "em.opt.R"),
    _flux("g", "em.opt"),
    _flux("bp", "em.opt.B"),
    _flux("rp", "em.opt.R"),
    _scalar("parallax", "tok_parallax", "parallax", "parallax", "pos.parallax", "mas", LOGARITHMIC),
    _scalar("ra", "tok_ra", "ra", "right ascension, ICRS, epoch 2016.0", "pos.eq.ra", "deg", PLAIN),
    _scalar("dec", "tok_dec", "dec", "declination, ICRS, epoch 2016.0", "pos.eq.dec", "deg", PLAIN),
)
