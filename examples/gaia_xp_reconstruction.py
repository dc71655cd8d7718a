"""Rebuild a Gaia source's calibrated spectrum from its coefficients as the plugin's reader reads them.

Compares with the sampled spectrum that the archive gives for the same source, prints the deviation, draws both.

example:
  python examples/gaia_xp_reconstruction.py XP_CONTINUOUS.fits XP_SAMPLED.fits --plot gaia.png
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any, cast

import numpy as np
from aion_tok_gaia.reader import ArchiveReader
from aion_tok_gaia.spectra import sampled_spectrum
from astropy.table import Table

from aion_core import AionError, Scalar


def main(arguments: list[str] | None = None) -> int:
    """Compare, print, draw."""
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("continuous", type=Path, help="coefficients: XP_CONTINUOUS in any format, one source")
    parser.add_argument("sampled", type=Path, help="the same source's XP_SAMPLED: columns wavelength, flux, flux_error")
    parser.add_argument("--plot", type=Path, metavar="PNG", help="where the plot goes")
    args = parser.parse_args(arguments)
    try:
        source, flux, table = rebuilt(args.continuous, args.sampled)
    except AionError as error:
        print(error, file=sys.stderr)
        return 2
    expected, sigma = np.asarray(table["flux"], float), np.asarray(table["flux_error"], float)
    deviation = np.abs(flux / expected - 1)
    at = table["wavelength"][deviation.argmax()]
    print(f"Gaia DR3 {source}: {len(flux)} samples, {table['wavelength'][0]:g} to {table['wavelength'][-1]:g} nm")
    print(f"relative deviation: median {np.median(deviation):.1e}, largest {deviation.max():.1e} (at {at:g} nm)")
    print(f"largest deviation in units of the error: {np.max(np.abs(flux - expected) / sigma):.1e}")
    if args.plot:
        draw(source, flux, table, args.plot)
        print(f"plot: {args.plot}")
    return 0


def rebuilt(continuous: Path, sampled: Path) -> tuple[str, Any, Table]:
    """Return the source's identifier, its flux at the sampled wavelengths, and the sampled spectrum."""
    table = Table.read(sampled)
    batch = next(iter(ArchiveReader().read(continuous, 1)))
    bp, rp = (cast(Scalar, batch.data[key][0]).value.numpy() for key in ("gaia_xp_bp", "gaia_xp_rp"))
    return str(batch.object_id[0]), sampled_spectrum(bp, rp, table["wavelength"])[0], table


def draw(source: str, flux: Any, table: Table, path: Path) -> None:
    """Draw both spectra, and the deviation in units of the error."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, (above, below) = plt.subplots(2, 1, sharex=True, figsize=(8, 6), height_ratios=(3, 1))
    wavelength, expected, sigma = (np.asarray(table[name], float) for name in ("wavelength", "flux", "flux_error"))
    above.fill_between(wavelength, expected - sigma, expected + sigma, alpha=0.3, label="error")
    above.plot(wavelength, expected, label="XP_SAMPLED of the archive")
    above.plot(wavelength, flux, "--", label="from the coefficients as read")
    above.set(ylabel="flux / W m⁻² nm⁻¹", title=f"Gaia DR3 {source}")
    above.legend()
    below.plot(wavelength, (flux - expected) / sigma)
    below.set(xlabel="wavelength / nm", ylabel="deviation / error")
    figure.savefig(path, dpi=120, bbox_inches="tight")
    plt.close(figure)


if __name__ == "__main__":
    sys.exit(main())
