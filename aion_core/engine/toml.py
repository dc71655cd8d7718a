"""Configuration files: TOML in, settings out, and one sentence where something is wrong.

TOML, because YAML reads ``1e-4`` as a string.
"""

from __future__ import annotations

import tomllib
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from aion_core.contract import AionError, did_you_mean

Model = TypeVar("Model", bound=BaseModel)


def read_toml(path: str | Path) -> dict[str, Any]:
    """Return what a TOML file holds."""
    try:
        return tomllib.loads(Path(path).read_text())
    except (OSError, UnicodeDecodeError) as error:
        raise AionError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}.") from None
    except tomllib.TOMLDecodeError as error:
        raise AionError(f"{path} is not valid TOML: {error}.") from None


def override(values: dict[str, Any], overrides: Sequence[str]) -> None:
    """Apply ``a.b=value`` in place; the value is TOML, or a bare word taken as a string."""
    for text in overrides:
        _set(values, text)


def merge(base: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Return `base` with `values` laid over it, section by section; lists are replaced whole."""
    merged = dict(base)
    for name, value in values.items():
        below = merged.get(name)
        merged[name] = merge(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return merged


def parse(cls: type[Model], values: Any, where: str = "the configuration") -> Model:
    """Validate a dictionary; the first fault is an `AionError` of one sentence."""
    try:
        return cls.model_validate(values)
    except ValidationError as error:
        raise AionError(f"{where}: {sentence(error, cls)}") from None


def _set(values: dict[str, Any], text: str) -> None:
    path, equals, right = text.partition("=")
    names = path.strip().split(".")
    if not equals or not all(names):
        raise AionError(f"--set {text!r}: expected NAME.NAME=VALUE, for example optimizer.lr=1e-4.")
    try:
        value = tomllib.loads(f"x = {right}")["x"]
    except tomllib.TOMLDecodeError:
        value = right
    for name in names[:-1]:
        inner = values.setdefault(name, {})
        if not isinstance(inner, dict):
            raise AionError(f"--set {text!r}: {name} is not a section.")
        values = inner
    values[names[-1]] = value


def sentence(error: ValidationError, root: type[BaseModel]) -> str:
    """Return what is wrong first in some settings."""
    # A misspelt name makes the right one missing as well: the misspelling is what the user can see.
    first = min(error.errors(), key=lambda fault: fault["type"] != "extra_forbidden")
    place = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        known = _fields_at(root, first["loc"][:-1])
        return f"there is no setting {place!r}.{did_you_mean(str(first['loc'][-1]), known)}"
    if first["type"] == "missing":
        return f"the setting {place!r} is missing."
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "value_error":  # one of ours, which says what was found
        return f"{place}: {message}."
    return f"{place}: {message} (found {str(first['input'])[:60]!r})."


def _fields_at(root: type[BaseModel], path: tuple[int | str, ...]) -> list[str]:
    """Names of the settings in the section that `path` leads to."""
    model: Any = root
    for part in path:
        if isinstance(part, int):
            continue
        annotation = model.model_fields[part].annotation
        model = next(
            (a for a in (annotation, *getattr(annotation, "__args__", ())) if hasattr(a, "model_fields")), None
        )
        if model is None:
            return []
    return list(model.model_fields)


def differences(old: Mapping[str, Any], new: Mapping[str, Any], free: Collection[str], path: str = "") -> list[str]:
    """Return the settings in which two configurations differ, as ``a.b: old → new``, leaving out those that may."""
    found = []
    for name in sorted(set(old) | set(new)):
        here = f"{path}{name}"
        a, b = old.get(name), new.get(name)
        if here in free or a == b:
            continue
        if isinstance(a, dict) and isinstance(b, dict):
            found += differences(a, b, free, f"{here}.")
        else:
            found.append(f"{here}: {a} → {b}")
    return found
