"""AION plugin: Gaia XP spectra, photometry and astrometry as token streams."""
