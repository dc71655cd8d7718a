"""What the configurations of all networks have in common."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from pydantic import ValidationError

from aion_core.contract import InputError
from aion_core.contract.modality import Frozen


class NetworkConfig(Frozen):
    """Sizes and constants of a tokenizer's network, by the release's names."""

    @classmethod
    def of(cls, settings: Mapping[str, Any], whose: str) -> Self:
        """Return the configuration in a mapping; what does not fit is an `InputError` that names its owner."""
        try:
            return cls.model_validate(dict(settings))
        except ValidationError as error:
            raise InputError(f"The configuration of {whose} does not fit: {first_fault(error)}.") from None


def first_fault(error: ValidationError) -> str:
    """Return what is wrong first, and where."""
    first = error.errors()[0]
    where, what = ".".join(map(str, first["loc"])), str(first["msg"]).removeprefix("Value error, ")
    return f"{where}: {what}" if where else what
