"""AION plugin: source lists and redshifts as token streams."""
