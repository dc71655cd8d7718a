"""AION plugin: spectra of any resolution and range as token streams, read on their own wavelengths."""
