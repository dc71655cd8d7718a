"""A tokenizer set: a folder in the layout of the release, with a manifest that says which tokens it makes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Self

import torch

from aion_core.contract import AionError, ModalitySpec, Slot, TokenSpace, UnknownKeyError, did_you_mean
from aion_core.files import replacing, write_json
from aion_core.hub import resolve
from aion_core.plugins import Registry, load_registry
from aion_core.release import CODECS, CONFIG, MANIFEST, WEIGHTS, Artifact, codec_folder, codec_names, write_artifact
from aion_core.tokenizers.base import (
    Tokenizer,
    check_fingerprint,
    codec_name,
    read_tokenizer,
    tokenizer_class,
)


class TokenizerSet(Mapping[str, Tokenizer]):
    """Tokenizers by modality key, in the order of their token space.

    Attributes
    ----------
    space
        Slots of the tokenizers, each with its fingerprint.
    unusable
        Why other modalities that the folder holds cannot be used here, by key (a plugin is not installed).
    """

    def __init__(
        self,
        tokenizers: Iterable[Tokenizer],
        registry: Registry | None = None,
        unusable: Mapping[str, str] | None = None,
    ) -> None:
        self._tokenizers = {tokenizer.spec.key: tokenizer for tokenizer in tokenizers}
        self.space = TokenSpace(slots=tuple(_slot(t, registry) for t in self._tokenizers.values()))
        self.unusable = dict(unusable or {})

    def __getitem__(self, key: str) -> Tokenizer:
        """Return the tokenizer of a key or upstream key; an unusable or unknown one is an `AionError`."""
        if key in self.unusable:
            raise AionError(self.unusable[key])
        return self._tokenizers[self.space[key].key]

    def __contains__(self, key: object) -> bool:
        return key in self.space

    def __iter__(self) -> Iterator[str]:
        return iter(self._tokenizers)

    def __len__(self) -> int:
        return len(self._tokenizers)

    def to(self, device: torch.device | str) -> Self:
        """Move all tokenizers to a device."""
        for tokenizer in self._tokenizers.values():
            tokenizer.to(device)
        return self

    def save(self, folder: str | Path) -> None:
        """Write the set, whole or not at all; a folder of that name is replaced.

        Raises
        ------
        AionError
            If the folder exists and holds something else than a tokenizer set, or if two tokenizers that differ
            would go into one codec folder.
        """
        folder = Path(folder)
        check_replaceable(folder)
        artifacts: dict[str, tuple[str, Artifact]] = {}
        for key, tokenizer in self.items():
            artifact = tokenizer.artifact()
            other, saved = artifacts.setdefault(tokenizer.codec, (key, artifact))
            if not saved.same(artifact):
                raise AionError(f"{other} and {key} share the codec {tokenizer.codec!r}, but have different weights.")
        with replacing(folder) as temporary:
            temporary.mkdir()
            for name, (_, artifact) in artifacts.items():
                write_artifact(codec_folder(temporary, name), artifact)
            write_json(temporary / MANIFEST, self.space.manifest())

    @classmethod
    def load(
        cls,
        source: str | Path,
        registry: Registry | None = None,
        keys: Iterable[str] | None = None,
        revision: str | None = None,
        local_files_only: bool = False,
    ) -> TokenizerSet:
        """Read a set from a folder or a Hub repository; one without a manifest (the AION-1 release) works, too.

        Parameters
        ----------
        source, revision, local_files_only
            See `aion_core.hub.resolve`.
        registry
            Installed plugins; None: look for them.
        keys
            Which modalities are wanted; None: all that the source holds and this installation knows.

        Raises
        ------
        AionError
            If the source is no tokenizer set, lacks a wanted key, has another meaning for a key than the installed
            plugin, or holds files that its manifest was not written for.
        """
        registry = load_registry() if registry is None else registry
        patterns = [MANIFEST, f"{CODECS}/*/{CONFIG}", f"{CODECS}/*/{WEIGHTS}"]
        root = resolve(source, patterns, revision=revision, local_files_only=local_files_only)
        specs, unusable, manifest = _contents(root, registry)
        if keys is not None:
            wanted = {spec.key: spec for spec in (_wanted(key, specs, unusable, root, registry) for key in keys)}
            specs = list(wanted.values())
        if manifest is not None:
            registry.token_space([s.key for s in specs]).check_readable(manifest)
        tokenizers: list[Tokenizer] = []
        for spec in specs:
            same = (t for t in tokenizers if t.codec == codec_name(spec) and type(t) is tokenizer_class(spec))
            tokenizer = read_tokenizer(spec, root, next(same, None))
            if manifest is not None:
                check_fingerprint(tokenizer, manifest, root)
            tokenizers.append(tokenizer)
        return cls(tokenizers, registry, unusable)


def check_replaceable(folder: Path) -> None:
    """Raise unless a tokenizer set may be written under this name: free, an empty folder, or an older set."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise AionError(f"{folder} is a file; a tokenizer set is a folder.")
    strangers = sorted(path.name for path in folder.iterdir() if path.name not in (CODECS, MANIFEST))
    if strangers:
        raise AionError(f"{folder} holds {strangers[0]}, so it is not a tokenizer set; choose another folder.")


def _contents(root: Path, registry: Registry) -> tuple[list[ModalitySpec], dict[str, str], TokenSpace | None]:
    """Return what of a source can be used here, why other modalities cannot, and its manifest."""
    if (root / MANIFEST).is_file():
        manifest = TokenSpace.from_file(root / MANIFEST)
        specs = [registry.modalities[key] for key in manifest.keys if key in registry.modalities]
        missing = [slot for slot in manifest.slots if slot.key not in registry.modalities]
        return specs, {slot.key: _missing(slot) for slot in missing}, manifest
    names = set(codec_names(root))
    specs = [s for s in registry.modalities.values() if s.tokenizer is not None and codec_name(s) in names]
    if not names:
        raise AionError(f"{root} is not a tokenizer set: it has neither {MANIFEST} nor {CODECS}/<name>/{CONFIG}.")
    return specs, {}, None


def _missing(slot: Slot) -> str:
    mend = f"pip install {slot.distribution}" if slot.distribution else "install the plugin that declares it"
    return f"{slot.key} needs a plugin that is not installed: {mend}"


def _wanted(
    key: str, specs: list[ModalitySpec], unusable: Mapping[str, str], root: Path, registry: Registry
) -> ModalitySpec:
    for spec in specs:
        if key in (spec.key, spec.upstream_key):
            return spec
    if key in unusable:
        raise AionError(unusable[key])
    misspelt = not any(key in (spec.key, spec.upstream_key) for spec in registry.modalities.values())
    names = [name for spec in specs for name in (spec.key, spec.upstream_key) if name]
    raise UnknownKeyError(
        f"{root} has no tokenizer for {key!r}; it has {', '.join(s.key for s in specs) or 'none'}."
        f"{did_you_mean(key, [*names, *unusable]) if misspelt else ''}"
    )


def _slot(tokenizer: Tokenizer, registry: Registry | None) -> Slot:
    spec = tokenizer.spec
    if registry is not None and spec.key in registry.modalities:
        return registry.slot(spec.key, tokenizer.fingerprint)
    return Slot(spec=spec, fingerprint=tokenizer.fingerprint)
