"""Which pixels of an SDSS spectrum are of use: the bits of ``and_mask``, and what is made of each.

``and_mask`` has a bit where every exposure had the condition; ``or_mask`` where any had, of which the combined pixel
may be free, so that only the former counts here. The pipeline has set the inverse variance to 0 where a condition made
the flux meaningless, and that is heeded first. Of the bits, those are heeded beyond it that say that the flux is not
the object's (or the wavelength not its own), whatever its error:

===================  ==================================================================================================
bit                  why it is heeded
===================  ==================================================================================================
0 NOPLUG             the fibre is in no plug map: nobody knows what it looked at
3 BADARC             no good wavelength solution
18 FULLREJECT        no exposure left after rejection; inverse variance is 0 by definition, as for NODATA
22 NOSKY             the sky was unknown, so it is still in the flux
23 BRIGHTSKY         the sky outshines object and error by far: what is left is its residual; the archive calls this the
                     bit to look at, and the pipeline leaves such pixels out of its redshift fits
24 NODATA            no data in the combined spectrum
25 COMBINEREJ        rejected when the exposures were combined
26 BADFLUXFACTOR     too little throughput for a flux calibration
27 BADSKYCHI         the sky model is off by more than its errors here (pipeline: left out of redshift fits)
28 REDMONSTER        a stretch of such pixels
===================  ==================================================================================================

Not heeded: bits 1, 2 and 4-12 are of the whole fibre or half of it (BADTRACE, BADFLAT, MANYBADCOLUMNS, MANYREJECTED,
LARGESHIFT, BADSKYFIBER, NEARWHOPPER, WHOPPER, SMEAR…): they tell how the fibre did, not that a pixel is wrong, and
residuals against the pipeline's model are no larger there (reduced chi² in 31 spectra: 2.4 with BADFLAT, 2.0 with
MANYBADCOLUMNS, 2.3 without any bit; with BRIGHTSKY 1.5, so that there it is the archive's advice that counts). Bits 16,
17, 19, 20 and 21 (NEARBADPIXEL, LOWFLAT, PARTIALREJECT, SCATTEREDLIGHT, CROSSTALK) are of pixels whose exposures were
used with the weight that the inverse variance states.

Sources: SPPIXMASK, https://www.sdss4.org/dr17/algorithms/bitmasks/#SPPIXMASK; Bolton et al. 2012 (AJ 144, 144).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

HEEDED = {
    "NOPLUG": 0, "BADARC": 3, "FULLREJECT": 18, "NOSKY": 22, "BRIGHTSKY": 23, "NODATA": 24, "COMBINEREJ": 25,
    "BADFLUXFACTOR": 26, "BADSKYCHI": 27, "REDMONSTER": 28,
}  # fmt: skip
BAD = sum(1 << bit for bit in HEEDED.values())

#: The one warning that leaves a redshift as it is: many pixels far off the model mean a bright object or broad lines,
#: hardly ever an error (https://www.sdss4.org/dr17/algorithms/bitmasks/#ZWARNING).
MANY_OUTLIERS = 1 << 4
ZWARNING = {
    "SKY": 0, "LITTLE_COVERAGE": 1, "SMALL_DELTA_CHI2": 2, "NEGATIVE_MODEL": 3, "MANY_OUTLIERS": 4, "Z_FITLIMIT": 5,
    "NEGATIVE_EMISSION": 6, "UNPLUGGED": 7, "BAD_TARGET": 8, "NODATA": 9,
}  # fmt: skip


def bad_pixels(
    flux: npt.NDArray[np.float64], ivar: npt.NDArray[np.float64], and_mask: npt.NDArray[np.int64] | None
) -> npt.NDArray[np.bool_]:
    """Return which pixels must not be used, of arrays of any one shape."""
    bad: npt.NDArray[np.bool_] = ~(np.isfinite(flux) & np.isfinite(ivar) & (ivar > 0))
    return bad if and_mask is None else bad | ((and_mask & BAD) != 0)
