"""What a training begins with: untrained tokenizers, those of a set, or those grown by bands that they lack."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from aion_core.contract import AionError, ModalitySpec
from aion_core.tokenizers.base import Tokenizer, codec_name, tokenizer_class
from aion_core.tokenizers.sets import TokenizerSet
from aion_core.tokenizers.training.config import TokenizerConfig


def begin(
    specs: Sequence[ModalitySpec], config: TokenizerConfig, base: TokenizerSet | None = None, grow: bool = False
) -> list[Tokenizer]:
    """Return the tokenizers of some modalities that share an artifact.

    Parameters
    ----------
    specs
        The modalities.
    config
        Settings of the network, and the seed of what is new.
    base
        Tokenizers to begin with; their weights will change.
    grow
        Whether these are to be given the bands that they lack.

    Raises
    ------
    AionError
        If the modalities' tokenizers are of different classes, or `base` has none that would do.
    """
    classes = {tokenizer_class(spec) for spec in specs}
    if len(classes) > 1:
        names = ", ".join(f"{spec.key} ({tokenizer_class(spec).__name__})" for spec in specs)
        raise AionError(f"{names} would share one artifact, but have tokenizers of different classes.")
    cls = classes.pop()
    if base is None:
        try:
            return list(cls.build(specs, config.run.seed, **config.network))
        except TypeError as error:
            raise AionError(f"{cls.__name__} does not take the settings {config.network} ({error}).") from error
    if grow:
        return _of_these_sizes(_grown(specs, base, config.run.seed), config.network)
    if missing := [spec.key for spec in specs if spec.key not in base]:
        raise AionError(
            f"The tokenizer set has none for {missing[0]} (it has {', '.join(base)}); --grow gives it new bands."
        )
    return _of_these_sizes([base[spec.key] for spec in specs], config.network)


def _of_these_sizes(tokenizers: list[Tokenizer], settings: Mapping[str, Any]) -> list[Tokenizer]:
    """Return tokenizers that are there already, if their sizes are those that a recipe asks for."""
    found = tokenizers[0].artifact().config
    for name, wanted in settings.items():
        if json.dumps(found.get(name)) != json.dumps(wanted):
            raise AionError(
                f"network.{name} is {found.get(name)} in the network of --from, and {wanted} in the recipe; "
                "leave it out, or begin afresh without --from."
            )
    return tokenizers


def _grown(specs: Sequence[ModalitySpec], base: TokenizerSet, seed: int) -> list[Tokenizer]:
    """Return the tokenizers of modalities with a network of the set, which has got the bands that it lacked."""
    cls = tokenizer_class(specs[0])
    alike = [t for t in base.values() if type(t) is cls]
    alike.sort(key=lambda t: t.codec != codec_name(specs[0]))
    start: Any = alike[0] if alike else None
    if start is None or not hasattr(start, "grow"):
        raise AionError(f"The tokenizer set has no network that could be grown by {specs[0].key}.")
    bands: dict[str, Any] = {}
    for spec in specs:
        has = start.bind(spec).bands
        bands |= {band.name: band for band in (spec.tokenizer.bands if spec.tokenizer else ()) if band.name not in has}
    if bands:
        start.grow(list(bands.values()), seed)
    return [start.bind(spec) for spec in specs]
