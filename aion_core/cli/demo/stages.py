"""The demo, stage by stage. Each leaves its result in the folder, and is not done again where it stands."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from shutil import disk_usage
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np

from aion_core.cli.demo import judge, learn, sky, tokens
from aion_core.cli.demo.networks import Networks, train_networks
from aion_core.cli.demo.question import train_on_question
from aion_core.cli.demo.report import write_report
from aion_core.cli.demo.settings import SPLIT, DemoSettings
from aion_core.cli.demo.views import SHARE, write_views
from aion_core.contract import AionError
from aion_core.data import TokenStore
from aion_core.data.join import join_stores
from aion_core.data.statistics import store_statistics
from aion_core.data.survey_files import SurveyFiles
from aion_core.engine import choose_device, open_world, without_denormals
from aion_core.files import read_json, write_json
from aion_core.plugins import Registry, load_registry
from aion_core.tokenizers import TokenizerSet
from aion_core.tokenizers.quality import compare
from aion_core.tokenizers.training.page import Gallery

if TYPE_CHECKING:
    from rich.progress import Progress as Bar

    from aion_core.engine import World

#: Objects on a page of reconstructions: from the brightest of those at hand to fainter ones.
BRIGHTNESS = (1.0, 0.9, 0.75, 0.5)
#: Images and spectra of real objects that are tokenized, at most, of each modality: they are to be looked at.
REAL = 200
#: Stages, and the share of the whole that each takes: what is left is told from what was needed so far.
STAGES = {"mock sky": 0.08, "networks": 0.37, "tokens": 0.19, "views": 0.01, "model": 0.32, "report": 0.03}
#: Stores that are made of others: all that is known of an object, views of it to train on, and to judge by.
MADE = ("joined", "numbers", "views", "judged")
#: What a demo leaves on the disk: MB for each object, and besides.
DISK = 0.4, 200


@dataclass(frozen=True)
class Tokens:
    """What the files have become.

    Attributes
    ----------
    quality
        ``{"mock": {key: figures}, "real": …}`` of reconstructions of held-out objects.
    """

    tokenizers: TokenizerSet
    quality: dict[str, dict[str, dict[str, Any]]]
    left_out: dict[str, str]
    real_objects: int


class Demo:
    """One demo in one folder."""

    def __init__(self, out: Path, settings: DemoSettings, bar: Bar) -> None:
        self.out, self.settings, self.bar = out, settings, bar
        self.registry: Registry = load_registry()
        self.seconds: dict[str, float] = {}
        self._claim_folder()

    def run(self) -> dict[str, Any]:
        """Run what is still to do; return what the report says."""
        done = self.out / "report" / "report.json"
        if done.exists():
            facts: dict[str, Any] = read_json(done)
            return facts
        with without_denormals(), open_world(choose_device("auto")) as world:
            with self._stage("mock sky"):
                observed = sky.observe(self.out / "mock", self.settings, self.registry, self.bar)
                truth = sky.read_truth(self.out / "mock")
            with self._stage("networks"):
                files = sky.mock_files(self.out / "mock", self.registry)
                networks = self._networks(files, observed.modalities, world)
            with self._stage("tokens"):
                made = self._tokens(files, networks, truth)
            with self._stage("views"):
                joined = self._join(truth, made)
            with self._stage("model"):
                configs = learn.training_configs(self.out, self.settings, joined.space, made.real_objects > 0)
                trainer, held_out = learn.train(configs, made.tokenizers, self.bar)
                show = self._bar(
                    "training a copy on redshifts", self.settings.scaled(self.settings.sizes.question.steps)
                )
                asked = train_on_question(trainer.model, joined, self.out / "question", self.settings, show)
            with self._stage("report"):
                model, tokenizers = trainer.model, made.tokenizers
                narrowing = judge.narrowing(asked, tokenizers, joined, truth)
                embedded = judge.embeddings(model, joined)
                probes = judge.probes(embedded, judge.photometry(tokenizers, joined), joined, truth)
                found = judge.on_a_map(embedded, joined, truth, self.settings.seed)
            left_out = made.left_out | {f"simulator {name}": why for name, why in observed.left_out.items()}
            facts = {
                "objects": len(truth),
                "kinds": {kind: int((truth["kind"] == kind).sum()) for kind in np.unique(truth["kind"])},
                "real_objects": made.real_objects,
                "held_out_objects": int(judge.held_out_rows(joined).sum()),
                "settings": self.settings.document(),
                "seconds": self._timed(),
                "tokenizers": list(self._tokenizer_rows(made)),
                "held_out": [h.asdict() for h in held_out],
                "target": narrowing.target if narrowing else None,
                "narrowing": narrowing.table() if narrowing else [],
                "probes": probes,
                "left_out": left_out,
                "parameters": sum(p.numel() for p in trainer.local.values()),
                "run": str(trainer.folder),
            }
            return write_report(
                self.out, facts, list(learn.history(configs)), tokenizers, joined, truth, narrowing, found
            )

    # -- stages ------------------------------------------------------------------------------------------------------

    def _networks(self, files: SurveyFiles, simulated: set[str], world: World) -> Networks:
        return train_networks(self.out, self.settings, self.registry, files, simulated, world, self.bar)

    def _tokens(self, files: SurveyFiles, networks: Networks, truth: sky.Truth) -> Tokens:
        """Read all files once, fit what is to be fitted, and write token stores; or read what was made before.

        What catalogues list of the mock sky besides its objects, fainter ones, is left out: a survey's sample is cut
        at a magnitude, too.
        """
        folder, done = self.out / "tokenizers" / "all", self.out / "stores" / "made.json"
        if done.exists():
            kept = read_json(done)
            return Tokens(
                TokenizerSet.load(folder, self.registry), kept["quality"], kept["left_out"], kept["real_objects"]
            )
        mock = self.out / "mock"
        nets = {key: tokenizer.fast() for key, tokenizer in networks.tokenizers.items()}
        seen = tokens.read_all(
            files, sky.groups(files, mock), nets, self.registry, self.bar, "tokenizing the mock sky",
            only=lambda batch: truth.at_one(batch.ra, batch.dec),
        )  # fmt: skip
        real = sky.real_files(self.settings, self.registry)
        theirs = (
            tokens.read_all(
                real, [("real", [*range(len(real))])], nets, self.registry, self.bar, "tokenizing real files", REAL
            )
            if real
            else tokens.Pass({}, {})
        )
        fitted, failed = tokens.fit([*seen.all, *theirs.all], self.registry)
        if not fitted and not nets:
            raise AionError("Nothing that the simulators write can be tokenized; `aion plugins` shows what is wrong.")
        by_key = {t.spec.key: t for t in fitted} | nets
        made = TokenizerSet((by_key[key] for key in self.registry.modalities if key in by_key), self.registry)
        for found in (seen, theirs):
            tokens.write_stores(found, made, self.out / "stores", self.bar)
        quality = {
            "mock": tokens.held_out_quality(seen.all, fitted) | networks.quality,
            "real": tokens.held_out_quality(theirs.all, fitted) | self._show(theirs.shown, made, "real"),
        }
        self._show(seen.shown, made, "mock")
        made.save(folder)
        count = sum(len(part.batch) for part in theirs.all)
        left_out = networks.left_out | failed
        write_json(done, {"quality": quality, "left_out": left_out, "real_objects": count})
        return Tokens(made, quality, left_out, count)

    def _show(self, shown: tokens.Shown, tokenizers: TokenizerSet, whose: str) -> dict[str, dict[str, Any]]:
        """Draw observations beside their reconstructions; return how good those are."""
        found = {}
        for key, obs in shown.items():
            codes, values, decoded = tokenizers[key].reconstruct(obs)
            found[key] = compare(tokenizers[key], obs, codes, values, decoded).to_dict()
            level = np.nanmean(np.abs(values.flatten(1).cpu().numpy()), axis=1)
            order = np.argsort(np.nan_to_num(level), kind="stable")
            chosen = np.unique([order[round(share * (len(order) - 1))] for share in BRIGHTNESS])[::-1].copy()
            gallery = Gallery(len(chosen))
            gallery.add(tokenizers[key], obs[chosen], values[chosen], decoded[chosen])
            gallery.draw(self.out / "pages" / f"{key}-{whose}.png", f"{key}: held-out {whose} objects")
        return found

    def _join(self, truth: sky.Truth, made: Tokens) -> TokenStore:
        """Join the mock's stores, one row an object, and write the views that the model is trained on."""
        folder = self.out / "stores"
        joined, numbers, views, judged = (folder / f"{name}.arrow" for name in MADE)
        apart = {*MADE, "real"}
        if not joined.exists():
            stores = [TokenStore(path) for path in sorted(folder.glob("*.arrow")) if path.stem not in apart]
            show = self._bar("joining the stores", len(truth))
            join_stores(stores, truth.names, truth["ra"], truth["dec"], joined, progress=show)
        store, copies = TokenStore(joined), self.settings.sizes.copies
        for path, share in ((numbers, 0.0), (views, SHARE)):
            if not path.exists():
                show = self._bar(f"drawing {path.stem}", copies * len(store))
                write_views(store, path, copies, SPLIT, self.settings.seed, show, share=share)
        if not judged.exists():
            write_views(store, judged, 2, SPLIT, self.settings.seed, held_out=True)
        return store

    def _tokenizer_rows(self, made: Tokens) -> Iterator[dict[str, Any]]:
        """Yield how each codebook is used in the stores, and what decoding keeps of held-out objects."""
        stores = [TokenStore(path) for path in sorted((self.out / "stores").glob("*.arrow")) if path.stem not in MADE]
        stored = store_statistics(stores)["modalities"]
        for key, tokenizer in made.tokenizers.items():
            if key not in stored:
                continue
            mock, real = (made.quality[whose].get(key, {}) for whose in ("mock", "real"))
            yield {
                "key": key,
                "kind": tokenizer.spec.kind,
                **{name: stored[key][name] for name in ("objects", "tokens", "vocab_size", "codes_used", "perplexity")},
                "percent": 100 * stored[key]["perplexity"] / tokenizer.spec.vocab_size,
                "r2": mock.get("r2"),
                "r2_scaled": mock.get("r2_scaled"),
                "baseline": mock.get("baseline"),
                "chi2": mock.get("chi2"),
                "r2_real": real.get("r2"),
            }

    # -- folder ------------------------------------------------------------------------------------------------------

    @contextmanager
    def _stage(self, name: str) -> Iterator[None]:
        """Say which stage it is, and keep how long it took: a continued demo adds to what it took before."""
        path = self.out / "seconds.json"
        left = time_left(name, read_json(path) if path.exists() else {})
        text = f"{list(STAGES).index(name) + 1} of {len(STAGES)}: {name}"
        self.bar.console.print(text + (f" (about {left / 60:.0f} min left in all)" if left else ""), markup=False)
        started = perf_counter()
        try:
            yield
        finally:
            spent = read_json(path) if path.exists() else {}
            write_json(path, spent | {name: round(spent.get(name, 0.0) + perf_counter() - started, 1)})
            for task in self.bar.task_ids:
                self.bar.remove_task(task)

    def _bar(self, what: str, total: int) -> Callable[[int], None]:
        """Begin a bar, and return what moves it on to a number."""
        task = self.bar.add_task(what, total=total)
        return lambda done: self.bar.update(task, completed=done)

    def _timed(self) -> dict[str, float]:
        spent: dict[str, float] = read_json(self.out / "seconds.json")
        return spent | {"all": round(sum(spent.values()), 1)}

    def _claim_folder(self) -> None:
        """Take an empty folder, or continue a demo with the same settings and plugins."""
        mine = {**self.settings.document(), "plugins": {p.name: p.version for p in self.registry.plugins}}
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
        elif self.out.exists() and (not self.out.is_dir() or any(self.out.iterdir())):
            raise AionError(f"{self.out} is not empty, and not a demo; name another folder with --out.")
        else:
            if not self.registry.simulators:
                raise AionError("No installed plugin has a simulator; `aion plugins` lists what is installed.")
            check_room(self.out, self.settings.objects)
            write_json(mark, mine)


def time_left(stage: str, spent: Mapping[str, float]) -> float | None:
    """Return how many seconds it takes from a stage on, by what the stages before it took; None before the first."""
    names = list(STAGES)
    before = names[: names.index(stage)]
    done = sum(STAGES[name] for name in before)
    return sum(spent.get(name, 0.0) for name in before) / done * (1 - done) if before else None


def check_room(out: Path, objects: int) -> None:
    """Refuse to begin what the disk cannot hold."""
    above = next(path for path in (out.absolute(), *out.absolute().parents) if path.exists())
    needed, free = (DISK[0] * objects + DISK[1]) / 1e3, disk_usage(above).free / 1e9
    if free < needed:
        raise AionError(
            f"A demo of {objects:,} objects leaves some {needed:,.1f} GB, and {above} has {free:,.1f} GB left; "
            "choose another folder with --out, or fewer --objects."
        )
