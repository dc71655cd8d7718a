"""What SDSS measures: optical spectra of the legacy, BOSS and eBOSS programmes, 3550 to 10400 Å in vacuum.

Sources: Abdurro'uf et al. 2022 (ApJS 259, 35); spectrographs Smee et al. 2013 (AJ 146, 32).
"""

from __future__ import annotations

from aion_core.contract import ModalitySpec, Provenance, TokenizerSpec

SPECTRUM = ModalitySpec(
    key="sdss_spectrum",
    upstream_key="tok_spectrum_sdss",
    upstream_codec="spectrum",
    survey="SDSS",
    title="coadded optical spectrum",
    citation="Abdurro'uf et al. 2022, ApJS 259, 35; Smee et al. 2013, AJ 146, 32",
    kind="spectrum",
    quantity="phot.flux.density;em.wl",
    units="1e-17 erg / (s cm2 Angstrom)",
    vocab_size=1024,
    shape=(273,),
    position="grid2d",
    provenance=Provenance(
        id=1060046941495169123,  # the first 63 bits of SHA-256 of "urn:aion:sdss_spectrum"
        instrument="SDSS and BOSS spectrographs, Sloan Foundation 2.5-m",
        release="DR17",
        doi="10.3847/1538-4365/ac4414",
    ),
    tokenizer=TokenizerSpec(path="aion_core.tokenizers.spectrum:SpectrumTokenizer", range=(3550.0, 10400.0)),
)

MODALITIES = (SPECTRUM,)
