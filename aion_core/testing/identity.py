"""Rules on the fingerprint: it changes exactly with what decides the codes, and is the same everywhere."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from aion_core.contract import ModalitySpec
from aion_core.observations import Observation
from aion_core.release import Artifact
from aion_core.testing.elsewhere import found_elsewhere
from aion_core.testing.examples import Batch, measured
from aion_core.testing.rules import NotApplicableError, rule
from aion_core.testing.subject import Subject
from aion_core.tokenizers import Tokenizer
from aion_core.tokenizers.base import read_tokenizer

#: Of the weights that are said to be in the fingerprint, about so many are tried singly.
SINGLY = 6
#: What is encoded to see whether a change shows: three objects, or one where an object has so many tokens.
PROBE, PROBE_OF_MANY, MANY = Batch(3, 7), Batch(1, 7), 100


@rule(
    "tokenizer",
    "make `from_artifact` restore all that `artifact` holds, and let `artifact` hold all that encoding reads",
)
def saved_and_read(subject: Subject, spec: ModalitySpec) -> Iterator[str]:
    """A tokenizer that is saved and read again has the same fingerprint and gives the same tokens."""
    tokenizer, folder = subject.tokenizer(spec), subject.folder / "saved" / spec.key
    tokenizer.save_pretrained(folder)
    back = read_tokenizer(spec, folder)
    if back.fingerprint != tokenizer.fingerprint:
        yield f"the fingerprint is {_short(tokenizer)} before, and {_short(back)} after"
    found, expected = back.encode(subject.observe(spec, _probe(spec))), subject.encode(spec, _probe(spec))
    if not torch.equal(found, expected):
        yield f"{_differing(found, expected)} tokens differ"


@rule("modality", "hash nothing that depends on the process: no `hash()`, `id()`, paths, times, or order of a set")
def fingerprint_is_the_same_elsewhere(subject: Subject, spec: ModalitySpec) -> Iterator[str]:
    """The fingerprint is the same in another process."""
    here = subject.tokenizer(spec).fingerprint
    elsewhere = found_elsewhere(subject)
    if spec.key in elsewhere.errors:
        raise NotApplicableError("it cannot be read there, see tokens_are_the_same_elsewhere")
    there = elsewhere.fingerprints.get(spec.key)
    if there is None:
        raise NotApplicableError("it cannot be saved, see saved_and_read")
    if there != here:
        yield f"the fingerprint is {here[:12]} here, and {there[:12]} in another process"


@rule("tokenizer", "pass `self.preprocessing_version` to `fingerprint`, as the base class does")
def fingerprint_has_the_preprocessing(subject: Subject, spec: ModalitySpec) -> Iterator[str]:
    """The fingerprint changes with the version of the preprocessing."""
    tokenizer = subject.tokenizer(spec)
    kind, other = type(tokenizer), copy.copy(tokenizer)
    names = {"__module__": kind.__module__, "__qualname__": kind.__qualname__}
    other.__class__ = type(kind.__name__, (kind,), {**names, "preprocessing_version": kind.preprocessing_version + 1})
    if other.fingerprint == tokenizer.fingerprint:
        yield f"version {kind.preprocessing_version + 1} has the fingerprint of version {kind.preprocessing_version}"


@rule("tokenizer", "return the tensor from `encode_tensors`: other weights would pass for these, and tokens be mixed")
def fingerprint_has_the_weights(subject: Subject, spec: ModalitySpec) -> Iterator[str]:
    """What encoding reads of the weights is in the fingerprint: tensors outside of it do not change tokens."""
    tokenizer, artifact = subject.tokenizer(spec), subject.tokenizer(spec).artifact()
    inside = _inside(tokenizer, spec, artifact)
    outside = [name for name in artifact.tensors if name not in inside]
    few = inside[:: 1 + len(inside) // SINGLY]
    unheard = [name for name in few if _fingerprint(spec, artifact, [name]) == tokenizer.fingerprint]
    yield from (f"{name} is among encode_tensors, but does not change the fingerprint" for name in unheard)
    before = subject.encode(spec, _probe(spec))

    def shows(names: list[str]) -> bool:
        made = _read(spec, _changed(artifact, names))
        return made is not None and not torch.equal(made.encode(subject.observe(spec, _probe(spec))), before)

    yield from (f"{name} changes tokens, but not the fingerprint" for name in _which(outside, shows))


@rule("tokenizer", "leave the tensor out of `encode_tensors`: a better decoder would make all stored tokens unusable")
def fingerprint_has_no_decoder(subject: Subject, spec: ModalitySpec) -> Iterator[str]:
    """What only decoding reads of the weights is not in the fingerprint."""
    tokenizer, artifact = subject.tokenizer(spec), subject.tokenizer(spec).artifact()
    tokens = subject.encode(spec, _probe(spec))
    before = tokenizer.decode(tokens)

    def shows(names: list[str]) -> bool:
        made = _read(spec, _changed(artifact, names))
        return len(names) > 1 if made is None else not _same(made.decode(tokens), before)

    for name in _which(_inside(tokenizer, spec, artifact), shows):
        other = _read(spec, _changed(artifact, [name]))
        if other is not None and torch.equal(other.encode(subject.observe(spec, _probe(spec))), tokens):
            yield f"{name} changes what tokens decode to, and the fingerprint, but no token"


@rule("tokenizer", "return the setting from `settings`: the same weights give other tokens with another value of it")
def fingerprint_has_the_settings(subject: Subject, spec: ModalitySpec) -> Iterator[str]:
    """Settings that change tokens change the fingerprint: those of the artifact's configuration and of the spec."""
    tokenizer, artifact = subject.tokenizer(spec), subject.tokenizer(spec).artifact()
    before = subject.encode(spec, _probe(spec))
    for where, value, put in _settings(spec, artifact):
        for other in _others(value):
            try:
                made = _read(*put(other))
                if made is None or made.fingerprint != tokenizer.fingerprint:
                    continue
                tokens = made.encode(subject.observe(spec, _probe(spec)))
            except Exception:
                continue  # this value is none that works
            if not torch.equal(tokens, before):
                yield f"{where} {other!r} instead of {value!r} gives other tokens with the same fingerprint"
                break


# --- changing a tokenizer


def _probe(spec: ModalitySpec) -> Batch:
    return PROBE if spec.n_tokens < MANY else PROBE_OF_MANY


def _changed(artifact: Artifact, names: list[str]) -> Artifact:
    """Return an artifact some of whose tensors are others, of the same shape; what ascends goes on to."""
    tensors = dict(artifact.tensors)
    for name in names:
        tensor = tensors[name]
        tensors[name] = tensor * 1.5 + 0.1 if tensor.is_floating_point() else tensor + 1
    return Artifact(artifact.config, tensors, artifact.metadata)


def _read(spec: ModalitySpec, artifact: Artifact) -> Tokenizer | None:
    """Return a tokenizer; None if it refuses the artifact."""
    from aion_core.tokenizers.base import tokenizer_class

    try:
        return tokenizer_class(spec).from_artifact(spec, artifact).eval()
    except Exception:
        return None


def _inside(tokenizer: Tokenizer, spec: ModalitySpec, artifact: Artifact) -> list[str]:
    """Return the tensors of an artifact that are in the fingerprint; those that share memory with it need no trial."""
    memory = {tensor.untyped_storage().data_ptr() for tensor in tokenizer.encode_tensors().values()}
    shared = {name for name, tensor in artifact.tensors.items() if tensor.untyped_storage().data_ptr() in memory}
    rest = [name for name in artifact.tensors if name not in shared]

    def shows(names: list[str]) -> bool:
        found = _fingerprint(spec, artifact, names)
        return len(names) > 1 if found is None else found != tokenizer.fingerprint

    heard = _which(rest, shows)
    return [name for name in artifact.tensors if name in shared or name in heard]


def _fingerprint(spec: ModalitySpec, artifact: Artifact, names: list[str]) -> str | None:
    made = _read(spec, _changed(artifact, names))
    return None if made is None else made.fingerprint


def _which(names: list[str], shows: Callable[[list[str]], bool]) -> list[str]:
    """Return those of some names that show, asking for many at once: where many do not show, none of them does."""
    if not names or not shows(names):
        return []
    if len(names) == 1:
        return names
    half = len(names) // 2
    return _which(names[:half], shows) + _which(names[half:], shows)


def _same(one: Observation, other: Observation) -> bool:
    return all(torch.equal(getattr(one, n).nan_to_num(), getattr(other, n).nan_to_num()) for n in measured(one))


Put = Callable[[Any], tuple[ModalitySpec, Artifact]]


def _settings(spec: ModalitySpec, artifact: Artifact) -> Iterator[tuple[str, Any, Put]]:
    """Yield name, value and a way to change it of every number and switch that a tokenizer is made with."""
    for path, value in _leaves(dict(artifact.config)):

        def in_artifact(other: Any, path: tuple[Any, ...] = path) -> tuple[ModalitySpec, Artifact]:
            config = _put(dict(artifact.config), path, other)
            return spec, Artifact(config, artifact.tensors, artifact.metadata)

        yield f"{'.'.join(map(str, path))} of the artifact's configuration", value, in_artifact
    declared = spec.tokenizer.model_dump(mode="json", include={"config", "bands", "range"}) if spec.tokenizer else {}
    for path, value in _leaves(declared):

        def in_spec(other: Any, path: tuple[Any, ...] = path) -> tuple[ModalitySpec, Artifact]:
            tokenizer = {**spec.model_dump(mode="json")["tokenizer"], **_put(declared, path, other)}
            fields = {**spec.model_dump(mode="json"), "tokenizer": tokenizer}
            return type(spec).model_validate(fields), artifact

        yield f"{'.'.join(map(str, path))} of the spec's tokenizer", value, in_spec


def _leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """Yield place and value of the numbers and switches in what JSON holds; of a list, the first stands for all."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _leaves(inner, (*path, name))
    elif isinstance(value, list | tuple):
        for inner in value[:1]:
            yield from _leaves(inner, (*path, 0))
    elif isinstance(value, bool | int | float):
        yield path, value


def _put(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    """Return what JSON holds with another value at a place."""
    if not path:
        return new
    if isinstance(value, dict):
        return {**value, path[0]: _put(value[path[0]], path[1:], new)}
    return [_put(inner, path[1:], new) if place == path[0] else inner for place, inner in enumerate(value)]


def _others(value: bool | int | float) -> list[Any]:
    if isinstance(value, bool):
        return [not value]
    return [value + 1] if isinstance(value, int) else [value / 3 + 0.1]


def _short(tokenizer: Tokenizer) -> str:
    return tokenizer.fingerprint[:12]


def _differing(one: Tensor, other: Tensor) -> str:
    if one.shape != other.shape:
        return f"all ({list(one.shape)} instead of {list(other.shape)})"
    return f"{int((one != other).sum())} of {one.numel()}"
