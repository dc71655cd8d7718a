"""What catalogues of several surveys share: the sources around an object, and spectroscopic redshift.

Sources: Dey et al. 2019 (AJ 157, 168) for the source lists; DESI Collaboration 2024 (AJ 168, 58) and
Abdurro'uf et al. 2022 (ApJS 259, 35) for the redshifts.
"""

from __future__ import annotations

from aion_core.contract import ModalitySpec, Provenance, TokenizerSpec

SOURCES = ModalitySpec(
    key="catalog_sources",
    upstream_key="catalog",
    upstream_codec="catalog",
    survey="Legacy Surveys",
    title="the ten sources nearest the centre: pixel x, y, ellipticity e1, e2, half-light radius (arcsec)",
    citation="Dey et al. 2019, AJ 157, 168",
    kind="source_list",
    quantity="src.morph.param;pos.cartesian",
    units="",  # five attributes with units of their own
    vocab_size=3468,
    shape=(50,),
    position="seq1d",
    order="causal",
    item_tokens=5,
    provenance=Provenance(
        id=6425437870513378977,  # the first 63 bits of SHA-256 of "urn:aion:catalog_sources"
        instrument="DECam, Blanco 4-m",
        release="DR10",
        doi="10.3847/1538-3881/ab089d",
    ),
    tokenizer=TokenizerSpec(
        path="aion_core.tokenizers.sources:SourceListTokenizer",
        config={"names": ["X", "Y", "SHAPE_E1", "SHAPE_E2", "SHAPE_R"]},
    ),
)

REDSHIFT = ModalitySpec(
    key="catalog_redshift",
    upstream_key="tok_z",
    upstream_codec="Z",
    survey="DESI and SDSS",
    title="spectroscopic redshift",
    citation="DESI Collaboration 2024, AJ 168, 58; Abdurro'uf et al. 2022, ApJS 259, 35",
    kind="scalar",
    quantity="src.redshift",
    units="",
    vocab_size=1025,  # the grid has 1024 codes; the release's table has a row more, which no value is coded as
    shape=(1,),
    position="scalar",
    provenance=Provenance(
        id=5033527655556626020,  # the first 63 bits of SHA-256 of "urn:aion:catalog_redshift"
        instrument="DESI, SDSS and BOSS spectrographs",
        release="DESI EDR, SDSS DR17",
        doi="10.3847/1538-3881/ad3217",
    ),
    tokenizer=TokenizerSpec(path="aion_core.tokenizers.scalar:GridTokenizer", config={"codes": 1024}, range=(0.0, 1.0)),
)

MODALITIES = (SOURCES, REDSHIFT)
