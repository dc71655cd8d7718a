"""The stages of the demo. Each leaves its result in the folder, and is not done again where it stands."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from aion_core.cli.demo.copies import disturbed_copies
from aion_core.cli.demo.report import Prediction, write_report
from aion_core.contract import AionError, InputError, ModalitySpec
from aion_core.data import ObservationBatch, StoreWriter, TokenStore, find_files, find_reader, sample_files
from aion_core.data.files import NotClaimedError
from aion_core.data.split import SplitConfig, split_mask
from aion_core.data.statistics import store_statistics
from aion_core.data.store import healpix_of
from aion_core.files import read_json, write_json
from aion_core.model import AionModel
from aion_core.plugins import Registry, load_registry
from aion_core.tokenizers import TokenizerSet, build_tokenizer
from aion_core.tokenizers.base import is_fittable
from aion_core.train import HeldOut, Progress, TrainConfig, Trainer

if TYPE_CHECKING:
    from rich.progress import Progress as Bar

#: A fifth of the sky cells is held out, in cells of 7 arcmin: the sample fields are small.
SPLIT = SplitConfig(fraction=0.2, order=9)
BATCH = 4096
#: Fewest held-out objects for which a conditional loss is worth a line.
FEWEST = 20
MODEL = {"dim": 64, "encoder_depth": 1, "decoder_depth": 1, "num_heads": 4}


@dataclass(frozen=True)
class DemoSettings:
    """What decides a demo's result."""

    data: Path | None = None
    objects: int = 150_000
    quick: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if self.objects < 100:
            raise AionError(f"--objects {self.objects} is too few to train on; 100 or more.")

    @property
    def copies(self) -> int:
        return self.objects // 5 if self.quick else self.objects

    @property
    def steps(self) -> int:
        return 200 if self.quick else 1200


@dataclass(frozen=True)
class DemoResult:
    """What the demo found."""

    facts: dict[str, Any]
    held_out: tuple[HeldOut, ...]
    note: str
    page: Path


class Demo:
    """One demo in one folder."""

    def __init__(self, out: Path, settings: DemoSettings, bar: Bar) -> None:
        self.out = out
        self.settings = settings
        self.bar = bar
        self.registry: Registry = load_registry()
        self._claim_folder()

    def run(self) -> DemoResult:
        """Run the stages that are still to do and write the report."""
        started = perf_counter()
        tokenizers = self.tokenizers()
        self.stores(tokenizers)
        trainer, held_out = self.train()
        real, copies = sum(map(len, self.real)), sum(map(len, self.copies))
        note = (
            f"{real:,} real objects from {len(self.files)} files; {copies:,} disturbed copies of those outside the "
            "held-out sky were added for training (common brightness ± 0.3 mag, fluxes ± 2 %, the rest smoothed). "
            "All of it was tokenized, and the model was trained on the scalars. Losses and predictions are for real "
            "held-out objects."
        )
        facts = {
            "seconds": perf_counter() - started,
            "real_objects": real,
            "copies": copies,
            "files": self.files,
            "tokenizers": list(self._qualities(tokenizers)),
            "held_out": [h.asdict() for h in held_out],
            "run": str(trainer.folder),
        }
        predictions = [p for h in held_out if h.given and (p := self._predict(trainer, tokenizers, h))]
        page = write_report(self.out / "report", facts, trainer.metrics, predictions, note)
        return DemoResult(facts, held_out, note, page)

    # -- data --------------------------------------------------------------------------------------------------------

    @cached_property
    def _read(self) -> list[tuple[Path, str, list[ObservationBatch]]]:
        """Files that a reader claims, with what they hold; damaged ones are told of on standard error and left out."""
        given = find_files([self.settings.data]) if self.settings.data else []
        found = []
        seen: set[tuple[str, ...]] = set()
        for path in self.bar.track([*given, *sample_files(self.registry)], description="reading sample files"):
            try:
                spec, reader = find_reader(path, self.registry)
                batches = [_unseen(batch, seen) for batch in reader.read(path, BATCH)]
            except NotClaimedError:
                continue
            except InputError as error:
                self.bar.console.print(f"left out: {error}", style="yellow", markup=False)
                continue
            found.append((path, spec.name, batches))
        if not found:
            where = f"in {self.settings.data}" if self.settings.data else "(none was named: --data or AION_SAMPLE_DIR)"
            raise AionError(
                f"No installed reader claims any sample file {where}; `aion plugins` lists the readers. Install a "
                "survey plugin, or name a folder of its files."
            )
        return found

    @property
    def files(self) -> list[dict[str, Any]]:
        return [{"file": path.name, "reader": name, "objects": sum(map(len, b))} for path, name, b in self._read]

    @property
    def real(self) -> list[ObservationBatch]:
        return [batch for _, _, batches in self._read for batch in batches if len(batch)]

    @cached_property
    def copies(self) -> list[ObservationBatch]:
        """Copies of objects outside the held-out sky, more of a kind (of what was measured) that is rare."""
        kinds: dict[tuple[str, ...], list[ObservationBatch]] = {}
        for batch in map(_training, self.real):
            if len(batch):
                kinds.setdefault(tuple(sorted(batch.data)), []).append(batch)
        sizes = np.array([sum(map(len, parts)) for parts in kinds.values()])
        copies_of_each = self.settings.copies * sizes**0.25 / (sizes**0.25).sum() / sizes
        found = []
        for k, parts in enumerate(kinds.values()):
            for i, batch in enumerate(parts):
                count = round(len(batch) * copies_of_each[k])
                rng = np.random.default_rng([self.settings.seed, k, i])
                if count:
                    found.append(disturbed_copies(batch, self.registry.modalities, count, rng))
        return found

    def tokenizers(self) -> TokenizerSet:
        """Fit every modality that the training objects have and that has a fitted tokenizer."""
        folder = self.out / "tokenizers"
        if folder.exists():
            return TokenizerSet.load(folder, self.registry)
        training = [*map(_training, self.real), *self.copies]
        present = [spec for key, spec in self.registry.modalities.items() if any(key in b.data for b in training)]
        specs = [spec for spec in present if is_fittable(spec)]
        if not specs:
            raise AionError(
                "Nothing in the sample files can be fitted in one pass, which is all that a demo has time for "
                f"({', '.join(spec.key for spec in present) or 'no modality has a tokenizer'}); install another "
                "survey plugin, or name a folder of other files with --data."
            )
        fitted = []
        for spec in self.bar.track(specs, description="fitting tokenizers"):
            tokenizer: Any = build_tokenizer(spec)
            for batch in training:
                if spec.key in batch.data:
                    tokenizer.observe(batch.data[spec.key][0])
            tokenizer.finish()
            fitted.append(tokenizer)
        result = TokenizerSet(fitted, self.registry)
        result.save(folder)
        return result

    def stores(self, tokenizers: TokenizerSet) -> None:
        """Tokenize the real objects and the copies into one store each."""
        for name, batches in (("real", self.real), ("copies", self.copies)):
            path = self.out / "stores" / f"{name}.arrow"
            if path.exists():
                continue
            with StoreWriter(path, tokenizers.space, {"source": f"aion demo, {name}"}) as writer:
                for batch in self.bar.track(batches, description=f"tokenizing: {name}"):
                    known = {k: part for k, part in batch.data.items() if k in tokenizers}
                    tokens = {k: (tokenizers[k].encode(obs), rows) for k, (obs, rows) in known.items()}
                    writer.write(batch.object_id, batch.ra, batch.dec, tokens)

    # -- model -------------------------------------------------------------------------------------------------------

    def train(self) -> tuple[Trainer, tuple[HeldOut, ...]]:
        """Train the small model; the configuration is left beside it for `aion train`."""
        steps = self.settings.steps
        config = TrainConfig.parse(
            {
                "run": {"folder": str(self.out / "run"), "seed": self.settings.seed, "precision": "fp32"},
                "data": {
                    "train": [
                        {"stores": [str(self.out / "stores/real.arrow")], "weight": 1},
                        {"stores": [str(self.out / "stores/copies.arrow")], "weight": 4},
                    ],
                    "validation": [str(self.out / "stores/real.arrow")],
                    "modalities": self._scalars(),
                    "batch_size": 512,
                    "split": SPLIT.model_dump(),
                },
                "model": MODEL,
                "masking": {"input_budget": 6, "target_budget": 6},
                "optimizer": {
                    "steps": steps,
                    "lr": 3e-3,
                    "embedding_lr": 7,
                    "warmup_steps": steps // 10,
                    "final_lr": 1e-5,
                },
                "evaluate": {
                    "every": max(1, steps // 6),
                    "samples": 1000,
                    "conditional": [{"target": t, "given": list(g)} for t, g in self._neighbours()],
                },
                "checkpoint": {"every": max(1, steps // 3), "keep": 1},
            }
        )
        task = self.bar.add_task("training", total=steps)

        def show(done: Progress) -> None:
            self.bar.update(task, completed=done.step, description=f"training, loss {done.loss:.3f}")

        # Half of the cores compute, the others prepare batches: threads that wait for a core slow a small model down.
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // 2))
        trainer = Trainer(config, show)
        outcome = trainer.run()
        if not outcome.finished:
            raise AionError(f"The demo was stopped at step {outcome.step} by {outcome.stopped_by}; start it again.")
        return trainer, outcome.held_out

    def _scalars(self) -> list[str]:
        """What the small model is trained on: in minutes on two cores it learns colours, but no spectra."""
        space = TokenStore(self.out / "stores/real.arrow").space
        return [spec.key for spec in space.specs() if spec.kind == "scalar"]

    def _neighbours(self) -> Iterator[tuple[str, tuple[str, ...]]]:
        """Each flux or magnitude with its two neighbours, of those of a plugin that enough held-out objects have."""
        store = TokenStore(self.out / "stores/real.arrow")
        rows = np.flatnonzero(split_mask(store.healpix, store.ids, SPLIT.fraction, SPLIT.order, SPLIT.seed))
        families: dict[str, list[ModalitySpec]] = {}
        for spec in store.space.specs():
            if spec.quantity.startswith(("phot.flux", "phot.mag")) and spec.kind == "scalar":
                families.setdefault(self.registry.origin(spec.key).name, []).append(spec)
        for specs in families.values():
            have = {s.key: (store.tokens(rows, [s.key])[s.key] >= 0).any(1) for s in specs}
            usual = [key for key, there in have.items() if there.sum() >= FEWEST]
            for i, key in enumerate(usual):
                near = sorted((abs(j - i), j) for j in range(len(usual)) if j != i)[:2]
                given = tuple(usual[j] for j in sorted(j for _, j in near))
                if len(given) == 2 and np.logical_and.reduce([have[k] for k in (key, *given)]).sum() >= FEWEST:
                    yield key, given

    # -- report ------------------------------------------------------------------------------------------------------

    def _qualities(self, tokenizers: TokenizerSet) -> Iterator[dict[str, Any]]:
        """How evenly each codebook is used in the stores, and what decoding keeps of objects in the held-out sky."""
        stored = store_statistics(TokenStore.open(self.out / "stores"))["modalities"]
        held_out = [batch for real in self.real if len(batch := _select(real, _held_out(real)))]
        for i, batch in enumerate(list(held_out)):
            rng = np.random.default_rng([self.settings.seed, 1, i])
            held_out.append(disturbed_copies(batch, self.registry.modalities, 10 * len(batch), rng))
        for key, tokenizer in tokenizers.items():
            parts = [tokenizer.reconstruct(batch.data[key][0]) for batch in held_out if key in batch.data]
            yield {
                "key": key,
                **{name: stored[key][name] for name in ("objects", "codes_used", "perplexity")},
                "percent": 100 * stored[key]["perplexity"] / tokenizer.spec.vocab_size,
                "held_out_error_percent": _typical_error(parts) if parts else None,
            }

    def _predict(self, trainer: Trainer, tokenizers: TokenizerSet, held_out: HeldOut) -> Prediction | None:
        """Posteriors of one modality of held-out real objects, as medians and 68 % intervals in its units."""
        given = held_out.given or ()
        store = TokenStore(self.out / "stores/real.arrow")
        rows = np.flatnonzero(split_mask(store.healpix, store.ids, SPLIT.fraction, SPLIT.order, SPLIT.seed))
        codes = {k: torch.from_numpy(v) for k, v in store.tokens(rows, [*given, held_out.target]).items()}
        whole = torch.stack([(c >= 0).all(1) for c in codes.values()]).all(0)
        truth = codes.pop(held_out.target)[whole]
        model: AionModel = trainer.model
        posterior = model.posterior({k: c[whole] for k, c in codes.items()}, held_out.target)
        tokenizer = tokenizers[held_out.target]

        def value(codes: torch.Tensor) -> npt.NDArray[np.float64]:
            decoded: Any = tokenizer.decode(codes.reshape(-1, 1))
            return np.asarray(decoded.value, np.float64).reshape(-1)

        cumulative = posterior.cumsum(-1)
        low, median, high = (
            value((cumulative < level).sum(-1).clamp(max=posterior.shape[-1] - 1)) for level in (0.16, 0.5, 0.84)
        )
        units = tokenizer.spec.units
        return Prediction(held_out.target, tuple(given), units, value(truth), median, low, high)

    # -- folder ------------------------------------------------------------------------------------------------------

    def _claim_folder(self) -> None:
        """Take an empty folder, or continue a demo with the same settings and plugins."""
        plugins = {p.name: p.version for p in self.registry.plugins}
        mine = {**asdict(self.settings), "data": str(self.settings.data), "plugins": plugins}
        mark = self.out / "demo.json"
        if mark.exists():
            theirs = read_json(mark)
            changed = [
                f"{name}: {theirs.get(name)} there, {mine[name]} now" for name in mine if theirs.get(name) != mine[name]
            ]
            if changed:
                raise AionError(
                    f"{self.out} holds a demo with other settings ({'; '.join(changed)}); name another folder with "
                    "--out, or remove it."
                )
        elif self.out.exists() and any(self.out.iterdir()):
            raise AionError(f"{self.out} is not empty, and not a demo; name another folder with --out.")
        else:
            write_json(mark, mine)


def _held_out(batch: ObservationBatch) -> npt.NDArray[np.bool_]:
    pixels = healpix_of(batch.ra, batch.dec)
    return split_mask(pixels, batch.object_id, SPLIT.fraction, SPLIT.order, SPLIT.seed)


def _unseen(batch: ObservationBatch, seen: set[tuple[str, ...]]) -> ObservationBatch:
    """Leave out objects that another file has shown with the same measurements, and remember the rest."""
    names = [(str(identifier), *sorted(batch.data)) for identifier in batch.object_id]
    new = np.array([name not in seen for name in names], dtype=bool)
    seen.update(names)
    return _select(batch, new)


def _training(batch: ObservationBatch) -> ObservationBatch:
    return _select(batch, ~_held_out(batch))


def _typical_error(parts: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]) -> float:
    """Median error of decoding, in per cent of half the 16–84 % spread of the data; the mean over coefficients.

    Medians, because a few stars are a thousand times brighter than the rest, and outside the codebook's range. What no
    object has (the last places of a list) does not count.
    """
    truth, decoded = (torch.cat([part[i].flatten(1) if part[i].ndim > 1 else part[i][:, None] for part in parts])
                      for i in (1, 2))  # fmt: skip
    error = (truth - decoded).abs().nanmedian(0).values
    low, high = truth.nanquantile(torch.tensor([0.16, 0.84]), dim=0)
    return float(100 * (error / ((high - low) / 2).clamp(min=1e-12)).nanmean())


def _select(batch: ObservationBatch, chosen: npt.NDArray[np.bool_]) -> ObservationBatch:
    """Return the objects that a mask ``[B]`` chooses."""
    number = np.cumsum(chosen) - 1
    data = {}
    for key, (observation, rows) in batch.data.items():
        kept = np.flatnonzero(chosen[rows])
        if len(kept):
            data[key] = (observation[kept], number[rows[kept]])
    return ObservationBatch(batch.object_id[chosen], batch.ra[chosen], batch.dec[chosen], data)
