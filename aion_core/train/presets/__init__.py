"""Whole runs, as TOML; see `aion_core.train.config`."""
