"""Recipes, as TOML; see `aion_core.tokenizers.training.config`."""
