"""Rules on what may not change between versions of a plugin, which it keeps in ``golden.json`` beside its module.

The file is part of the package, so that ``aion plugins check`` finds it wherever the plugin is installed. It says what
is fixed for ever about each modality, and which tokens a small tokenizer gives to examples.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from aion_core.contract import InputError, ModalitySpec
from aion_core.files import replacing
from aion_core.testing.examples import FAULTS, Batch
from aion_core.testing.rules import NotApplicableError, rule
from aion_core.testing.subject import Subject

NAME = "golden.json"
#: What is fixed for ever about a modality.
FIXED = (
    *("upstream_key", "upstream_codec", "kind", "quantity", "units", "vocab_size", "shape", "position", "order"),
    "item_tokens",
)
#: Of networks, whose numbers are rounded otherwise on other machines, so many tokens must be those written.
SHARE = 0.98
_HINT = "write it with `aion plugins check NAME --write-golden` and commit it"


@rule("modality", "undo the change: stored tokens and trained models rest on it. A new meaning is a new key")
def identity_is_kept(subject: Subject, spec: ModalitySpec) -> Iterator[str]:
    """Provenance ID, vocabulary, shape, quantity, units and upstream names are those of golden.json."""
    kept = _entry(subject, spec)["fixed"]
    now = _fixed(spec)
    yield from (f"{name} is {now[name]!r}, and was {kept[name]!r}" for name in kept if kept[name] != now.get(name))


@rule("modality", "undo the change, or raise preprocessing_version and write golden.json again (--write-golden)")
def golden_tokens(subject: Subject, spec: ModalitySpec) -> Iterator[str]:
    """Examples get the tokens of golden.json."""
    entry = _entry(subject, spec)
    subject.tokenizer(spec)
    if entry["tokens"] is None:
        yield "it had no tokenizer when golden.json was written"
        return
    version, now = entry["preprocessing_version"], type(subject.tokenizer(spec)).preprocessing_version
    for batch, kept in zip(_batches(subject, spec), entry["tokens"], strict=True):
        found = subject.encode(spec, batch)
        expected = torch.tensor(kept, dtype=torch.int64)
        if found.numel() != expected.numel():
            yield f"{batch}: {found.numel()} tokens; there were {expected.numel()}"
            continue
        share = float((found.flatten() == expected).float().mean())
        if share < (1.0 if spec.n_tokens == 1 else SHARE):
            known = "the version is still" if version == now else "written for version"
            yield f"{batch}: {100 * (1 - share):.1f} % of tokens are others ({known} {version})"


def golden_path(subject: Subject) -> Path:
    """Return where the file is, or belongs: in the folder of the module that the entry point names."""
    module = find_spec(subject.points[0].module)
    if module is None or module.origin is None:
        raise InputError(f"{subject.points[0].value}: there is no such module.")
    return Path(module.origin).with_name(NAME)


def write_golden(subject: Subject) -> Path:
    """Write the file anew, and return where it is."""
    path = golden_path(subject)
    entries = {key: _made(subject, spec) for key, spec in subject.modalities.items()}
    lines = (f"{json.dumps(key)}: {json.dumps(entry)}" for key, entry in entries.items())
    with replacing(path) as temporary:
        temporary.write_text("{\n" + ",\n".join(lines) + "\n}\n")
    subject.__dict__.pop("golden", None)
    return path


def read_golden(subject: Subject) -> Mapping[str, Any] | None:
    """Return the file's content by key; None where there is no file."""
    path = golden_path(subject)
    if not path.is_file():
        return None
    try:
        found = json.loads(path.read_text())
        if all({"fixed", "tokens", "preprocessing_version"} <= entry.keys() for entry in found.values()):
            return dict(found)
    except (ValueError, AttributeError):
        pass
    raise InputError(f"{path} is damaged: {_HINT.replace('NAME', subject.name)}.")


def _entry(subject: Subject, spec: ModalitySpec) -> Mapping[str, Any]:
    found = read_golden(subject)
    hint = _HINT.replace("NAME", subject.name)
    if found is None:
        raise NotApplicableError(f"the plugin has no {NAME} yet: {hint}")
    if spec.key not in found:
        raise NotApplicableError(f"{NAME} has nothing on it yet: {hint}")
    entry: Mapping[str, Any] = found[spec.key]
    return entry


def _made(subject: Subject, spec: ModalitySpec) -> dict[str, Any]:
    try:
        tokenizer = subject.tokenizer(spec)
        tokens = [subject.encode(spec, batch).flatten().tolist() for batch in _batches(subject, spec)]
        version = tokenizer.preprocessing_version
    except NotApplicableError:
        tokens, version = None, None
    return {"fixed": _fixed(spec), "preprocessing_version": version, "tokens": tokens}


def _fixed(spec: ModalitySpec) -> dict[str, Any]:
    found = spec.model_dump(mode="json", include=set(FIXED))
    return {"provenance": spec.provenance.id, **{name: found[name] for name in FIXED}}


def _batches(subject: Subject, spec: ModalitySpec) -> tuple[Batch, ...]:
    """Return the examples: whole ones, and ones with bad pixels; more of them where each has few tokens."""
    size = min(16, max(1, 600 // spec.n_tokens))
    return Batch(size, 21), Batch(2, 22, (next(iter(FAULTS)), "masked pixels"))
