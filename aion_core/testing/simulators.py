"""Rules on simulators: the files that they write of the mock sky, and the way of these files to tokens."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

import numpy as np

from aion_core.contract import SimulatorSpec
from aion_core.mock import FIELD, draw
from aion_core.testing.rules import NotApplicableError, rule
from aion_core.testing.subject import Subject

#: Positions that a simulator writes may be off by: arcsec.
NEAR = 1.0
#: Seconds by which the clock is put forward; files made within the same second tell nothing.
DAY = 86_400
#: Objects of each batch that are tokenized.
TOKENIZED = 4


@rule("simulator", "let `observe` write into the folder it is given, and return the paths of all files")
def writes_files(subject: Subject, spec: SimulatorSpec) -> Iterator[str]:
    """It observes some of the mock sky, and returns the files that it wrote into the folder."""
    made = subject.try_simulated(spec)
    if isinstance(made, str):
        yield made
        return
    folder, files = made.folder, made.files
    for path in files:
        if not isinstance(path, Path) or not path.is_file():
            yield f"{path} is returned, but is no file"
        elif folder.resolve() not in path.resolve().parents:
            yield f"{path} lies outside of the folder given"
    strays = {path for path in folder.rglob("*") if path.is_file()} - {Path(path) for path in files}
    yield from (f"{path.name} was written, but not returned" for path in sorted(strays))


@rule("simulator", "draw random numbers from the generator given only, and write no dates or versions of the moment")
def simulates_the_same_again(subject: Subject, spec: SimulatorSpec) -> Iterator[str]:
    """The same objects and random numbers give the same files, byte for byte, a day later too."""
    made, again = subject.simulated(spec), subject.folder / "again" / spec.name
    again.mkdir(parents=True, exist_ok=True)
    now = time.time
    with patch.object(time, "time", lambda: now() + DAY):
        subject.material.simulate(spec, again, made.seed)
    for path in made.files:
        twin = again / path.relative_to(made.folder)
        if not twin.is_file():
            yield f"{path.name} is not written the second time"
        elif twin.read_bytes() != path.read_bytes():
            yield f"{path.name} has another content the second time"


@rule("simulator", "write what the plugin's readers claim, with all that the simulator declares as its modalities")
def is_read_back(subject: Subject, spec: SimulatorSpec) -> Iterator[str]:
    """The plugin's readers claim the files, and find every modality that the simulator declares."""
    back = subject.read_back(spec)
    missing = [key for key in spec.modalities if key not in back.modalities]
    yield from back.faults
    if missing:
        yield f"no object that is read back has {', '.join(missing)}"


@rule("simulator", "write each object's own position (ICRS, degrees), and read that column")
def objects_are_where_they_were(subject: Subject, spec: SimulatorSpec) -> Iterator[str]:
    """Objects that are read back lie where the mock sky has an object."""
    batches = subject.read_back(spec).batches
    ra, dec = (np.concatenate([getattr(b, n) for b in batches] or [np.zeros(0)]) for n in ("ra", "dec"))
    known = np.isfinite(ra) & np.isfinite(dec)
    if not known.any():
        raise NotApplicableError("no object that is read back has a position")
    sky = draw(subject.simulated(spec).seed, 0, FIELD)
    away = np.hypot((ra[known, None] - sky.ra) * np.cos(np.radians(sky.dec)), dec[known, None] - sky.dec) * 3600
    if not (away.min(1) < NEAR).any():
        yield f"of {known.sum()} objects read back, the nearest to one of the mock sky is {away.min():.1f} arcsec away"


@rule("simulator", "see which part fails alone: the files (`aion show`), the reader's units and masks, the tokenizer")
def round_trip_gives_tokens(subject: Subject, spec: SimulatorSpec) -> Iterator[str]:
    """What is simulated and read is tokenized: codes within the vocabulary for some objects of each modality."""
    seen: dict[str, int] = {}
    for batch in subject.read_back(spec).batches:
        for key, (observation, _) in batch.data.items():
            own = subject.modalities.get(key)
            if own is None or own.tokenizer is None or isinstance(subject.try_tokenizer(own), str):
                continue
            tokens = subject.tokenizer(own).encode(observation[:TOKENIZED]).flatten(1)
            if tokens.numel() and (int(tokens.min()) < -1 or int(tokens.max()) >= own.vocab_size):
                yield f"{key}: codes range over {int(tokens.min())} … {int(tokens.max())}"
            seen[key] = seen.get(key, 0) + int((tokens[:, :1] >= 0).sum())
    yield from (f"{key}: no object that was simulated gets a token: all are −1" for key, n in seen.items() if not n)
