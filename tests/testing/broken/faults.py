"""Ways to break a plugin, and the rule that catches each: changes of the sound plugin beside, one piece of text each.

Run as a script it builds them, puts the rules to each until one is failed, and prints the table:

    python tests/testing/broken/faults.py
"""

# ruff: noqa: E501 the texts are as long as they are

from __future__ import annotations

import importlib
import os
import re
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SOUND = Path(__file__).parent / "sound"
#: A plugin beside, for the fault of one that needs another.
COMPANION = """
from aion_core.contract import ModalitySpec, Provenance
from aion_core.plugins import hookimpl
api_version = 1
@hookimpl
def aion_modalities():
    return [ModalitySpec(key="companion_flux", survey="Other", title="x", citation="x", kind="scalar", units="",
                         quantity="phot.flux", vocab_size=8, shape=(1,), position="scalar",
                         provenance=Provenance(id=4611686018427387009, instrument="x", release="x"))]
"""


@dataclass(frozen=True)
class Fault:
    """One way to break the sound plugin: in which file which text (once in it) becomes which other."""

    rule: str
    what: str
    file: str
    old: str
    new: str

    @property
    def name(self) -> str:
        return "b" + re.sub(r"\W+", "", self.what.title()).lower()


P, F, S, IO, META, GOLD = "plugin.py", "flux.py", "spectrum.py", "files.py", "METADATA", "golden.json"
NPZ_BATCH = '        return ObservationBatch(names, part["ra"], part["dec"], data)'

FAULTS = (
    # what is declared
    Fault("imports", "is written for a newer core", P, "api_version = 1", "api_version = 99"),
    Fault("imports", "imports a package that is absent", P, "api_version = 1", "import no_such_package"),
    Fault("imports", "a hook returns a dict", P, "return [FLUX, SPECTRUM]", "return {'flux': FLUX}"),
    Fault("prefix", "a key without the plugin's name", P, 'key="sound_flux"', 'key="flux"'),
    Fault("declarations", "a reader names a modality that nobody declares", P,
          'reader="aion_tok_sound.files:ArrayReader",\n            modalities=("sound_flux",',
          'reader="aion_tok_sound.files:ArrayReader",\n            modalities=("sound_image",'),
    Fault("unique", "two modalities share a provenance ID", P, "4611686018427387002", "4611686018427387001"),
    Fault("distribution", "does not require the core", META, "Requires-Dist: aion-core\n", ""),
    Fault("import_strings", "names a tokenizer that is not there", P, "flux:FluxTokenizer", "flux:FluxTokeniser"),
    Fault("import_strings", "names a reader that is none", P, "files:ArrayReader", "files:SURVEY"),
    Fault("import_strings", "names a simulator that cannot observe", P, "files:SurveySimulator", "files:ArrayReader"),
    Fault("round_trip", "a setting that JSON cannot hold", P, 'config={"step": 2.5}', 'config={"step": 2.5, "note": "\\udcff"}'),
    Fault("unit_and_quantity", "a unit that astropy does not know", P, 'units="nmgy"', 'units="fluxes"'),
    Fault("unit_and_quantity", "a quantity that is no UCD", P, "phot.flux;em.opt.R", "phot.brightness"),
    Fault("provenance_is_written_out", "computes its provenance ID", P, "id=4611686018427387002",
          "id=hash(('sound', 'spectrum')) % 2**62 + 1"),
    Fault("identity_is_kept", "changes a unit after release", P, 'units="nmgy"', 'units="Jy"'),
    # encoding
    Fault("tokenizer_is_made", "a tokenizer that does not take its settings", S, "def __init__(self, spec, step)",
          "def __init__(self, spec, stride)"),
    Fault("dtype_and_shape", "tokens of 32 bits", F, "return tokens[:, None]", "return tokens[:, None].int()"),
    Fault("dtype_and_shape", "tokens of another shape", F, "return tokens[:, None]", "return tokens"),
    Fault("dtype_and_shape", "fails on an empty batch", F, "value = obs.value\n", "value = obs.value + 0 * obs.value[0]\n"),
    Fault("dtype_and_shape", "squeezes a batch of one", S,
          "        return tokens.masked_fill(~good.any(1)[:, None], -1)",
          "        return tokens.masked_fill(~good.any(1)[:, None], -1).squeeze(0)"),
    Fault("codes_in_range", "codes beyond the vocabulary", F, "CODES // 2 - 1) + CODES // 2", "CODES // 2 - 1) + CODES"),
    Fault("codes_in_range", "some tokens of an object are minus one", S,
          "        return tokens.masked_fill(~good.any(1)[:, None], -1)",
          "        return tokens.masked_fill(~good.any(1)[:, None] | (tokens == 16), -1)"),
    Fault("deterministic", "rounds at random", F, "torch.floor(torch.asinh(value) / WIDTH)",
          "torch.floor(torch.asinh(value) / WIDTH + torch.rand(len(value)))"),
    Fault("deterministic", "leaves its training mode", S, "    def loss(",
          "    def encode(self, obs):\n        return super(type(self), self.eval()).encode(obs)\n\n    def loss("),
    Fault("input_left_alone", "clamps the caller's values", F, "value = obs.value\n", "value = obs.value.clamp_(max=5)\n"),
    Fault("independent_of_the_batch", "subtracts the mean of the batch", S, "torch.floor((means[:, None]",
          "torch.floor(((means - means.mean(0))[:, None]"),
    Fault("nothing_valid_is_minus_one", "takes NaN for 0", F, "code.nan_to_num(-1)", "code.nan_to_num(32)"),
    Fault("nothing_valid_is_minus_one", "forgets that all may be masked", S, "~good.any(1)[:, None], -1",
          "~obs.flux.isfinite().any(1)[:, None], -1"),
    Fault("nothing_valid_is_minus_one", "takes the mask for what is good", S, "good = good & ~obs.mask",
          "good = good & obs.mask"),
    Fault("bad_pixels_do_not_count", "sums over masked pixels", S, ".masked_fill(~good, 0.0)",
          ".masked_fill(~flux.isfinite(), 0.0)"),
    Fault("survives_what_surveys_contain", "cannot stand infinities", F, "value = obs.value\n",
          "value = obs.value\n        assert not value.isinf().any()\n"),
    # decoding
    Fault("every_code_decodes", "a table shorter than the vocabulary", F, "middle = torch.sinh((torch.arange(CODES)",
          "middle = torch.sinh((torch.arange(CODES - 1)"),
    Fault("decodes", "minus one decodes to a number", F, "        value = value.masked_fill(tokens[:, 0] < 0, torch.nan)\n",
          ""),
    Fault("decodes", "decodes to infinity", S, "flux = (steps[:, None] * self.decoder).sum(-1)",
          "flux = ((steps[:, None] * self.decoder).sum(-1) * torch.inf)"),
    Fault("takes_back_what_it_decodes", "decodes to another unit", F, "unit=self.spec.units)", 'unit="kg")'),
    Fault("within_its_bound", "decodes to the edge of a code", F, "- CODES // 2 + 0.5) * WIDTH", "- CODES // 2 + 1) * WIDTH"),
    Fault("within_its_bound", "promises nothing by infinities", F, "half[0] = half[-1] = torch.inf", "half[:] = torch.inf"),
    Fault("refuses_what_is_not_its_own", "takes any unit and any class", F, "    def loss(",
          "    def accept(self, obs):\n        return obs\n\n    def loss("),
    Fault("refuses_what_is_not_its_own", "takes any number for a token", S, "    def loss(",
          "    def _check_tokens(self, given):\n"
          "        return torch.as_tensor(given).long().flatten(1)[:, :8].clamp(-1, 31)\n\n    def loss("),
    # what a tokenizer is
    Fault("saved_and_read", "does not read its weights back", S, "(BINS, BINS), spec.key).clone()",
          "(BINS, BINS), spec.key).clone().fill_(0.3)"),
    Fault("saved_and_read", "forgets a setting", S, 'made = cls(spec, float(artifact.config["step"]))',
          "made = cls(spec, 1.0)"),
    Fault("fingerprint_has_the_preprocessing", "leaves the version out of the fingerprint", S, "    def settings(self)",
          "    @property\n    def fingerprint(self):\n        from aion_core.contract import fingerprint\n"
          "        from aion_core.tokenizers.base import _hashable\n"
          "        return fingerprint('x', 1, self.settings(), [_hashable('e', self.encoder)])\n\n    def settings(self)"),
    Fault("fingerprint_has_the_weights", "leaves the weights out of the fingerprint", S,
          'return {"encoder": self.encoder}\n', "return {}\n"),
    Fault("fingerprint_has_the_settings", "leaves a setting out of the fingerprint", S, 'return {"step": self.step}\n',
          "return {}\n"),
    Fault("fingerprint_has_no_decoder", "has the decoder in the fingerprint", S, 'return {"encoder": self.encoder}\n',
          'return {"encoder": self.encoder, "decoder": self.decoder}\n'),
    Fault("golden_tokens", "changes its preprocessing without a new version", S, "flux.clamp(-1e6, 1e6)",
          "(flux * 0.7).clamp(-1e6, 1e6)"),
    # simulators and readers
    Fault("writes_files", "returns a file that is not there", IO, "files.append(path)",
          'files += [path, folder / "other.npz"]'),
    Fault("writes_files", "sees nothing", IO, "files.append(path)", "path.unlink()"),
    Fault("simulates_the_same_again", "draws noise of its own", IO, "flux = rng.lognormal(1, 1, size)",
          "flux = np.random.default_rng().lognormal(1, 1, size)"),
    Fault("simulates_the_same_again", "lets the day into its numbers", IO, "flux = rng.lognormal(1, 1, size)",
          "flux = rng.lognormal(1, 1, size) + __import__('time').time() // 86_400 % 100"),
    Fault("it_alone_claims_its_files", "has two readers of the same files", P, "    return [\n        ReaderSpec(",
          "    twin = ReaderSpec(name='sound_twin', title='twin', patterns=('*.npz',), modalities=('sound_flux',),\n"
          "                      reader='aion_tok_sound.files:ArrayReader')\n    return [\n        twin,\n        ReaderSpec("),
    Fault("files_of_a_group_name_one_group", "names a group without the file", IO, "    def claims(",
          "    def group(self, path):\n        return (path.with_name('other.npz'),)\n\n    def claims("),
    Fault("files_of_others_are_not_claimed", "claims by the name", IO,
          'return b"survey.npy" in self._content(path)[:100]', "return True"),
    Fault("files_of_others_are_not_claimed", "raises when asked", IO, "except (OSError, EOFError, zlib.error)",
          "except (OSError, zlib.error)"),
    Fault("objects_are_as_declared", "right ascensions from −180", IO, 'part["ra"], part["dec"], data)',
          'part["ra"] - 360, part["dec"], data)'),
    Fault("objects_are_as_declared", "yields a modality that it does not declare", P,
          'reader="aion_tok_sound.files:ArrayReader",\n            modalities=("sound_flux", "sound_spectrum")',
          'reader="aion_tok_sound.files:ArrayReader",\n            modalities=("sound_flux",)'),
    Fault("units_are_those_of_the_modality", "gives a flux in kilograms", IO, 'Scalar(part["flux"][bright])',
          'Scalar(part["flux"][bright], unit="kg")'),
    Fault("batches_are_as_asked_for", "yields all at once", IO, "        for start in range(0, len(found",
          "        batch_size = 1000\n        for start in range(0, len(found"),
    Fault("values_are_finite_unless_masked", "does not mask what is missing", IO,
          'ivar=part["ivar"], mask=mask', 'ivar=part["ivar"] + 1, mask=mask & False'),
    Fault("values_are_finite_unless_masked", "yields what was not measured", IO,
          'np.flatnonzero(np.isfinite(part["flux"]))', 'np.arange(len(part["ra"]))'),
    Fault("masks_are_true_where_bad", "a mask upside down", IO, 'mask = part["good"] == 0',
          'mask = part["good"] > 0\n        part["spectrum"] = np.nan_to_num(part["spectrum"])'),
    Fault("batch_size_does_not_matter", "names objects by their place in the batch", IO,
          'part["object_id"].astype(str)', "rows.astype(str)"),
    Fault("batch_size_does_not_matter", "normalises over the batch", IO, 'Scalar(part["flux"][bright])',
          'Scalar(part["flux"][bright] / max(1, len(bright)))'),
    Fault("other_wishes_do_not_matter", "leaves out objects that lack what is wanted", IO, NPZ_BATCH,
          '        if self.wanted == ["sound_flux"]:\n'
          '            keep, data = bright, {"sound_flux": (data["sound_flux"][0], np.arange(len(bright)))}\n'
          '            return ObservationBatch(names[keep], part["ra"][keep], part["dec"][keep], data)\n' + NPZ_BATCH),
    Fault("compressed_files_read_the_same", "cannot unpack what its patterns promise", IO,
          'gzip.decompress(content) if content[:2] == b"\\x1f\\x8b" else content', "content"),
    Fault("cut_files_are_refused", "lets the error of an archive through", IO,
          "raise InputError(f\"{path}: this is no whole archive ({error}); fetch it again.\") from error", "raise"),
    Fault("missing_files_are_named", "gives nothing for a file that is not there", IO,
          "        except FileNotFoundError:\n            raise\n", "        except FileNotFoundError:\n            return\n"),
    Fault("is_read_back", "writes no fluxes though it says so", IO, "np.where(rng.random(size) < 0.1, np.nan, flux)",
          "np.full(size, np.nan)"),
    Fault("objects_are_where_they_were", "writes right ascensions in hours", IO, "ra=part.ra,", "ra=part.ra / 15,"),
    Fault("round_trip_gives_tokens", "writes wavelengths in nanometres", IO, "np.linspace(4000.0, 9000.0, 60)",
          "np.linspace(400.0, 900.0, 60)"),
    # elsewhere
    Fault("tokens_are_the_same_in_threads", "keeps what it works on in an attribute", F, "value = obs.value\n",
          "self.value = obs.value\n        __import__('time').sleep(0.002)\n        value = self.value\n"),
    Fault("tokens_are_the_same_on_a_gpu", "works with another setting on a GPU", S, "    def settings(self)",
          "    def to(self, *args, **more):\n        self.step *= 1.02\n        return super().to(*args, **more)\n\n"
          "    def settings(self)"),
    Fault("light_import", "imports numpy to say what it has", P, "api_version = 1\n", "import numpy\napi_version = 1\n"),
    Fault("stands_alone", "ends any other process that encodes", S, "means, good = self._means(obs)\n",
          "means, good = self._means(obs)\n        if __import__('sys').argv[0] == '-c':\n"
          "            __import__('os')._exit(3)\n"),
    Fault("stands_alone", "reads for another plugin only", P, "    return [\n        ReaderSpec(",
          "    other = ReaderSpec(name='sound_other', title='x', patterns=('*.other',), modalities=('companion_flux',),\n"
          "                       reader='aion_tok_sound.files:ArrayReader')\n    return [\n        other,\n        ReaderSpec("),
    Fault("same_declarations", "says when it was imported", P, 'title="r-band flux"',
          'title=f"r-band flux, process {__import__(\'os\').getpid()}"'),
    Fault("fingerprint_is_the_same_elsewhere", "has a hash of Python in the fingerprint", S, 'return {"step": self.step}\n',
          'return {"step": self.step, "key": hash(self.spec.key)}\n'),
    Fault("tokens_are_the_same_elsewhere", "depends on what else is imported", S, "means, good = self._means(obs)\n",
          "means, good = self._means(obs)\n        means = means + 2.5 * ('aion_core.testing.suite' in __import__('sys').modules)\n"),
)  # fmt: skip


def build(folder: Path) -> Path:
    """Write the sound plugin, all broken ones and the companion as installed distributions into a folder."""
    _write(folder, "sound", {})
    for fault in FAULTS:
        text = (SOUND / fault.file).read_text()
        if text.count(fault.old) != 1:
            raise ValueError(f"{fault.what}: its text occurs {text.count(fault.old)} times in {fault.file}")
        changed = {fault.file: text.replace(fault.old, fault.new)}
        if fault.rule.endswith("elsewhere"):
            changed[GOLD] = ""  # golden tokens would tell of it first
        _write(folder, fault.name, changed)
    (folder / "companion_plugin.py").write_text(COMPANION)
    _info(folder, "companion", "companion_plugin", (SOUND / META).read_text())
    return folder


def _write(folder: Path, name: str, changed: dict[str, str]) -> None:
    package = folder / f"aion_tok_{name}"
    package.mkdir()
    (package / "__init__.py").touch()
    for path in SOUND.glob("*.*"):
        if text := changed.get(path.name, path.read_text()):
            (package / path.name).write_text(text.replace("sound_", f"{name}_").replace("tok_sound", f"tok_{name}"))
    metadata = changed.get(META, (SOUND / META).read_text())
    _info(folder, name, f"aion_tok_{name}.plugin", metadata)


def _info(folder: Path, name: str, module: str, metadata: str) -> None:
    info = folder / f"aion_tok_{name}-1.0.dist-info"
    info.mkdir()
    (info / META).write_text(metadata.replace("tok-sound", f"tok-{name}"))
    (info / "entry_points.txt").write_text(f"[aion.plugins]\n{name} = {module}\n")


def subject(name: str) -> Any:
    """Return a plugin that was built; the folder must be on the path."""
    import torch

    from aion_core.testing.subject import Material, Subject

    class Few(Material):
        examples, objects = 4, 12

    os.environ["AION_PLUGINS"] = f"{name},companion"
    made = Subject(name, Few())
    assert made.registry  # under this environment
    made.__dict__["gpu"] = torch.device("cpu")  # stands in for one, so that the rule can be seen to fail
    return made


def main() -> None:
    from aion_core.testing.suite import RULES, put

    with tempfile.TemporaryDirectory() as folder:
        sys.path.insert(0, str(build(Path(folder))))
        importlib.invalidate_caches()
        print("| rule | a plugin that … | what the suite says |\n|---|---|---|")
        for fault in FAULTS:
            made = subject(fault.name)
            found = (outcome for rule in RULES for outcome in put(rule, made) if outcome.status == "fail")
            first = next(found, None)
            said = first.found[0].replace(fault.name, "sound").replace("|", "\\|") if first else "nothing"
            told = first.rule if first else "–"
            print(
                f"| {told}{'' if told == fault.rule else f' (expected {fault.rule})'} | {fault.what} | {said} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
