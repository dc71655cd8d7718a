"""One token space out of many surveys: an ordered, append-only set of modalities with vocabulary offsets.

The token space is written as a JSON *manifest* into every token store and every checkpoint, with the names and
versions of the plugins that gave it, so that both can be used where those plugins are not installed.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any, Self

from pydantic import Field, SerializerFunctionWrapHandler, ValidationError, model_serializer, model_validator

from aion_core.contract.errors import AionError, TokenSpaceError, UnknownKeyError, did_you_mean
from aion_core.contract.modality import Frozen, ModalitySpec

MANIFEST_VERSION = 1


class Origin(Frozen):
    """The model that a modality was appended to, after its training."""

    source: str = Field(description="folder or repository, as it was named then")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$", description="of its weights; of several files, one after another")


class Slot(Frozen):
    """One modality in a token space: its spec, the fingerprint of its tokens, and who declared it."""

    spec: ModalitySpec
    fingerprint: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$", description="None: not known")
    distribution: str | None = Field(default=None, description="e.g. aion-tok-example")
    version: str | None = None
    grown_from: Origin | None = Field(default=None, description="None: there from the first training")

    @model_serializer(mode="wrap")
    def _without_empty_origin(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        values: dict[str, Any] = handler(self)
        return values if self.grown_from else {k: v for k, v in values.items() if k != "grown_from"}

    @property
    def key(self) -> str:
        return self.spec.key


class TokenSpace(Frozen):
    """An ordered set of `Slot`s. Slot i owns rows ``offsets[i] … offsets[i] + vocab_size - 1`` of a shared table."""

    slots: tuple[Slot, ...] = ()

    @model_validator(mode="after")
    def _unique(self) -> Self:
        # A slot answers to its key and its upstream key, so neither may be another slot's.
        names = [name for slot in self.slots for name in {slot.key, slot.spec.upstream_key} if name]
        ids = [str(slot.spec.provenance.id) for slot in self.slots]
        for what, values in (("key", names), ("provenance ID", ids)):
            if twice := sorted({v for v in values if values.count(v) > 1}):
                raise ValueError(f"{what} {twice[0]} occurs twice in one token space")
        return self

    @cached_property
    def keys(self) -> tuple[str, ...]:
        """Keys in slot order."""
        return tuple(slot.key for slot in self.slots)

    @cached_property
    def offsets(self) -> tuple[int, ...]:
        """First row of each slot, and the total number of rows at the end: ``len(slots) + 1`` integers."""
        return tuple(accumulate((slot.spec.vocab_size for slot in self.slots), initial=0))

    @cached_property
    def _index(self) -> dict[str, int]:
        names = {slot.spec.upstream_key: i for i, slot in enumerate(self.slots) if slot.spec.upstream_key}
        return names | {slot.key: i for i, slot in enumerate(self.slots)}

    def __len__(self) -> int:
        return len(self.slots)

    def __contains__(self, key: object) -> bool:
        return key in self._index

    def specs(self) -> Iterator[ModalitySpec]:
        """Iterate over the specs in slot order."""
        return (slot.spec for slot in self.slots)

    def index(self, key: str) -> int:
        """Return the slot number of a key (or upstream key); an unknown one is an error with a suggestion."""
        try:
            return self._index[key]
        except KeyError:
            raise UnknownKeyError(
                f"No modality {key!r} in this token space ({', '.join(self.keys) or 'empty'})."
                f"{did_you_mean(key, self._index)}"
            ) from None

    def __getitem__(self, key: str) -> Slot:
        return self.slots[self.index(key)]

    def append(self, slots: Iterable[Slot]) -> TokenSpace:
        """Return a token space with further slots behind the present ones, whose rows keep their numbers."""
        return _validated(TokenSpace, {"slots": (*self.slots, *slots)})

    def grow(self, slots: Iterable[Slot], origin: Origin | None = None) -> TokenSpace:
        """Return the token space of a model that new modalities are appended to, which is `origin`.

        Raises
        ------
        TokenSpaceError
            If one is there already, under this or another meaning, or has the provenance ID of one that is.
        """
        new = tuple(slot.model_copy(update={"grown_from": origin}) for slot in slots)
        for slot in new:
            self._check_new(slot)
        return self.append(new)

    def _check_new(self, slot: Slot) -> None:
        for name in filter(None, (slot.key, slot.spec.upstream_key)):
            if name in self:
                self.check_readable(TokenSpace(slots=(slot,)), accept=(slot.key,))
                there = self[name].key
                alias = "" if there == slot.key else f" as {there}"
                raise TokenSpaceError(f"{slot.key} is there already{alias}; only what is new can be appended.")
        for old in self.slots:
            if old.spec.provenance.id == slot.spec.provenance.id:
                raise TokenSpaceError(
                    f"{slot.key} has the provenance ID {old.spec.provenance.id}, which is that of {old.key} here; two "
                    "measurements cannot share one, so one of the plugins must change its own."
                )

    def newest(self) -> tuple[str, ...]:
        """Return the keys of the last growth, empty where all modalities were there from the first training."""
        last = self.slots[-1].grown_from if self.slots else None
        return tuple(slot.key for slot in self.slots if last and slot.grown_from == last)

    def select(self, keys: Iterable[str]) -> TokenSpace:
        """Return the token space of some keys only, in the order given."""
        return TokenSpace().append(self[key] for key in keys)

    def check_readable(self, other: TokenSpace, accept: Collection[str] = ()) -> None:
        """Raise unless tokens written under `other` mean the same here, for every key that both have.

        Another vocabulary, shape, order or provenance ID is always an error: a new meaning is a new key. Another
        fingerprint is one unless its key is in `accept` (``--accept-fingerprint KEY``). An unknown fingerprint
        (an import without a manifest) is let through: nothing says that it differs.
        """
        for key in self.keys:
            if key not in other:
                continue
            mine, theirs = self[key], other[key]
            for field in ("vocab_size", "shape", "order"):
                a, b = getattr(mine.spec, field), getattr(theirs.spec, field)
                if a != b:
                    raise TokenSpaceError(
                        f"{key}: {field} is {a} here and {b} there; a modality's meaning is fixed, "
                        "so a changed one needs a new key."
                    )
            if mine.spec.provenance.id != theirs.spec.provenance.id:
                raise TokenSpaceError(
                    f"{key}: provenance ID {mine.spec.provenance.id} here, {theirs.spec.provenance.id} there; "
                    "two different measurements carry the same key."
                )
            if None in (mine.fingerprint, theirs.fingerprint) or mine.fingerprint == theirs.fingerprint:
                continue
            if key not in accept:
                raise TokenSpaceError(
                    f"{key}: tokens were made by another tokenizer (fingerprint {_short(theirs)} there, "
                    f"{_short(mine)} here). Tokenize again with the same tokenizer set, or record that this is "
                    f"intended with --accept-fingerprint {key}."
                )

    def manifest(self) -> dict[str, Any]:
        """Return the JSON-serialisable manifest."""
        from aion_core import __version__

        return {"aion_manifest": MANIFEST_VERSION, "aion_core": __version__, **self.model_dump(mode="json")}

    def to_json(self) -> str:
        """Return the manifest as deterministic JSON."""
        return json.dumps(self.manifest(), sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str | bytes) -> TokenSpace:
        """Read a manifest. A newer manifest version, or one that is not a manifest, is an `AionError`."""
        try:
            data = json.loads(text)
        except ValueError as error:
            raise AionError(f"The manifest is not JSON ({error}).") from None
        if not isinstance(data, dict) or "aion_manifest" not in data:
            raise AionError("This JSON is not a token-space manifest: it has no field 'aion_manifest'.")
        if data["aion_manifest"] != MANIFEST_VERSION:
            raise AionError(
                f"The manifest has version {data['aion_manifest']!r}; this aion-core reads version "
                f"{MANIFEST_VERSION}. Upgrade aion-core (it was written by {data.get('aion_core', 'unknown')})."
            )
        return _validated(cls, {"slots": data.get("slots", ())})

    @classmethod
    def from_file(cls, path: Path) -> TokenSpace:
        """Read a manifest from a file; an error names the file."""
        try:
            return cls.from_json(path.read_bytes())
        except AionError as error:
            raise type(error)(f"{path}: {error}") from None


def _validated(cls: type[TokenSpace], data: dict[str, Any]) -> TokenSpace:
    try:
        return cls.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise TokenSpaceError(
            f"Not a valid token space: {where + ': ' if where else ''}{first['msg'].removeprefix('Value error, ')}."
        ) from None


def _short(slot: Slot) -> str:
    return (slot.fingerprint or "unknown")[:12]
