"""One modality: an image in u and in the near infrared, on the pixels of the HSC deep fields.

Sources: Sawicki et al. 2019 (MNRAS 489, 5202); Jarvis et al. 2013 (MNRAS 428, 1281). The coadds are brought to AB
magnitude 27.0 per count and to 0.168 arcsec per pixel, as the HSC images that they lie over.
"""

from __future__ import annotations

from aion_core.contract import Band, ModalitySpec, Provenance, TokenizerSpec

#: Limit of the flux in counts of every band, about that of HSC's at the same depth.
LIMITS = {"CFHT-U": 60.0, "VISTA-Y": 500.0, "VISTA-J": 700.0, "VISTA-H": 900.0, "VISTA-KS": 1000.0}

BANDS = tuple(Band(name=n, limit=limit, zero_point=27.0, pixel_scale=0.168) for n, limit in LIMITS.items())

IMAGE = ModalitySpec(
    key="clauds_image",
    upstream_codec="image",  # the tokenizer that it shares
    survey="CLAUDS and VIDEO",
    title="u, Y, J, H, Ks coadd image, 96 × 96 pixels",
    citation="Sawicki et al. 2019, MNRAS 489, 5202; Jarvis et al. 2013, MNRAS 428, 1281",
    kind="image",
    quantity="phot.flux;obs.image",
    units="5.754747e-08 Jy",
    vocab_size=4375,
    shape=(24, 24),
    position="grid2d",
    # The first 63 bits of SHA-256 of urn:aion:clauds_image.
    provenance=Provenance(
        id=2566856898610892685, instrument="MegaCam, CFHT; VIRCAM, VISTA", release="CLAUDS DR1, VIDEO DR5"
    ),
    tokenizer=TokenizerSpec(
        path="aion_core.tokenizers.image:ImageTokenizer", config={"quantizer_levels": [7, 5, 5, 5, 5]}, bands=BANDS
    ),
)
