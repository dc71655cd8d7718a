"""Two modalities with one tokenizer: what differs is which part of the spectrum is measured, not how it is told.

A third one (a millimetre spectrum, a slit of a space telescope) is six lines here, and nothing in the tokenizer.
"""

from __future__ import annotations

from aion_core.contract import ModalitySpec, Provenance, TokenizerSpec

UNIT = "1e-17 erg / (s cm2 Angstrom)"
#: Tokens of a spectrum: its level, its first and last wavelength, and one for each of 125 patches.
TOKENS = 128
CODES = 4375


def _spectrum(key: str, title: str, band: tuple[float, float], identity: int, instrument: str) -> ModalitySpec:
    return ModalitySpec(
        key=key,
        upstream_codec="universal",  # modalities that name the same codec share one network, and its weights
        survey="any",
        title=title,
        citation="after the universal spectral tokenizer, arXiv 2510.17959",
        kind="spectrum",
        quantity="phot.flux.density;em.wl",
        units=UNIT,
        vocab_size=CODES,
        shape=(TOKENS,),
        position="seq1d",
        # The first 63 bits of SHA-256 of urn:aion:<key>, written out because they may never change.
        provenance=Provenance(id=identity, instrument=instrument, release="any"),
        tokenizer=TokenizerSpec(path="aion_tok_universal.tokenizer:UniversalSpectrumTokenizer", range=band),
    )


OPTICAL = _spectrum(
    "universal_optical",
    "optical spectrum, R 1500 to 5000",
    (3500.0, 10400.0),
    6340245664081235128,
    "any optical spectrograph (DESI, SDSS)",
)
INFRARED = _spectrum(
    "universal_infrared",
    "near-infrared spectrum, R 1500 to 30 000",
    (9700.0, 18900.0),
    2989051381217988592,
    "any near-infrared spectrograph (APOGEE, NIRSpec)",
)

MODALITIES = (OPTICAL, INFRARED)
