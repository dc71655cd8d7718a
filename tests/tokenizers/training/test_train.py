"""``aion tokenizer train`` for networks, as typed: learning, resuming, preemption, several processes, refusals."""

from __future__ import annotations

import json
import re
import signal
from typing import Any

import numpy as np
import pytest
import torch

from aion_core.cli import main
from aion_core.plugins import load_registry
from aion_core.tokenizers import TokenizerSet


def aion(capsys: pytest.CaptureFixture[str], *words: Any) -> tuple[int, str, str]:
    code = main(["tokenizer", *map(str, words)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def settings(**changes: Any) -> list[str]:
    return [word for name, value in changes.items() for word in ("--set", f"{name.replace('__', '.')}={value}")]


def test_a_network_learns_and_the_set_has_it_beside_a_fitted_table(tiny, capsys) -> None:
    tiny.write("a.npz", 200, keys=("left", "right"), tiny_number=np.random.default_rng(0).normal(size=200))
    tiny.write("b.npz", 200, seed=5)
    words = ("train", tiny.data, "--out", tiny.out, "--config", tiny.config(steps=300), "--json")
    code, out, err = aion(capsys, *words)
    assert code == 0, err
    found = json.loads(out)
    assert list(found["modalities"]) == ["tiny_left", "tiny_right", "tiny_number"]
    for key in ("tiny_left", "tiny_right"):
        figures = found["modalities"][key]
        assert figures["r2"] > 0.8
        assert figures["r2"] > figures["baseline"] + 0.3
        assert figures["dead_codes"] == 25 - figures["codes_used"]
        assert figures["held_out"]
    assert found["trainings"]["tiny"]["finished"]
    tokenizers = TokenizerSet.load(tiny.out, load_registry())
    assert list(tokenizers) == ["tiny_left", "tiny_right", "tiny_number"]
    assert tokenizers["tiny_left"].network is tokenizers["tiny_right"].network
    code, out, _ = aion(capsys, "eval", tiny.data, "--tokenizers", tiny.out, "--json")
    assert json.loads(out)["modalities"]["tiny_left"]["r2"] > 0.8
    log = [json.loads(line) for line in (tiny.out.with_name("set.training") / "tiny/metrics.jsonl").open()]
    assert set(next(line for line in log if line["kind"] == "train")["terms"]) == {"square", "size"}
    assert {"perplexity", "dead_codes", "r2", "baseline"} <= set(log[-1]["tiny_left"])


def test_the_table_names_held_out_objects_and_the_baseline(tiny, capsys) -> None:
    tiny.write("a.npz", 200)
    code, out, _ = aion(capsys, "train", tiny.data, "--out", tiny.out, "--config", tiny.config())
    assert code == 0
    assert "R² of the mean" in out
    assert "Measured on held-out objects: tiny_left." in out
    assert "fewer than" not in out


def test_a_killed_training_ends_with_the_same_parameters_as_one_that_was_not(tiny, start, runs) -> None:
    tiny.write("a.npz", 90)
    tiny.write("b.npz", 60, seed=3)
    recipe = tiny.config(steps=300, every=20, optimizer="average = 0.99\nwarmup_steps = 5")
    folders = {name: tiny.out.with_name(f"{name}.training") / "tiny" for name in ("whole", "killed")}
    whole = start("train", tiny.data, "--out", tiny.out.with_name("whole"), "--config", recipe, "--json")
    killed = start("train", tiny.data, "--out", tiny.out.with_name("killed"), "--config", recipe)
    runs.wait(killed, folders["killed"])
    runs.stop(killed, signal.SIGKILL)
    assert not tiny.out.with_name("killed").exists()
    again = start("train", tiny.data, "--out", tiny.out.with_name("killed"), "--config", recipe, "--json")
    out, err = again.communicate()
    assert again.returncode == 0, err
    first = json.loads(whole.communicate()[0])
    assert first["modalities"] == json.loads(out)["modalities"]
    assert runs.parameters(folders["killed"]) == runs.parameters(folders["whole"])
    assert {"average.safetensors", "optimizer.safetensors"} <= set(runs.parameters(folders["whole"]))
    assert runs.losses(folders["killed"]) == runs.losses(folders["whole"])


@pytest.mark.slow
def test_a_training_asked_to_stop_saves_says_so_and_continues_bitwise(tiny, start, runs) -> None:
    tiny.write("a.npz", 150)
    recipe = tiny.config(steps=250, every=20)
    whole = start("train", tiny.data, "--out", tiny.out.with_name("whole"), "--config", recipe, "--json")
    folder = tiny.out.with_name("stopped.training") / "tiny"
    words = ("train", tiny.data, "--out", tiny.out.with_name("stopped"), "--config", recipe)
    process = start(*words)
    runs.wait(process, folder)
    out, err = runs.stop(process, signal.SIGUSR1)
    assert process.returncode == 0, err
    assert re.search(r"tiny: stopped by SIGUSR1 at step \d+, saved .*; run the same command to continue", out)
    assert not tiny.out.with_name("stopped").exists()
    again = start(*words)
    assert again.wait() == 0, again.communicate()[1]
    assert whole.wait() == 0
    assert runs.parameters(folder) == runs.parameters(tiny.out.with_name("whole.training") / "tiny")


def test_two_processes_have_the_losses_of_one_though_one_lacks_a_modality(tiny, start, runs) -> None:
    tiny.write("a.npz", 120, keys=("left",))
    tiny.write("b.npz", 120, seed=3, keys=("right",))
    recipe, out = tiny.config(steps=30), tiny.out
    words = ("--config", recipe, "--json", "--set", "data.lanes=2", "--set", "data.interleave=1")
    both = start("train", tiny.data, "--out", out.with_name("two"), *words, processes=2)
    alone = start("train", tiny.data, "--out", out.with_name("one"), *words)
    found = {}
    for name, process in (("two", both), ("one", alone)):
        text, err = process.communicate()
        assert process.returncode == 0, err
        found[name] = json.loads(text)
    one, two = (runs.losses(out.with_name(f"{name}.training") / "tiny") for name in ("one", "two"))
    assert len(one) == len(two) == 30
    assert np.allclose(one, two, rtol=1e-5)
    assert one[-1] < 0.5 * one[0]
    r2 = [found[name]["modalities"]["tiny_left"]["r2"] for name in ("one", "two")]
    assert r2[0] == pytest.approx(r2[1], rel=1e-3)


@pytest.mark.slow
def test_two_processes_asked_to_stop_continue_bitwise(tiny, start, runs) -> None:
    tiny.write("a.npz", 90)
    tiny.write("b.npz", 90, seed=3)
    recipe, out = tiny.config(steps=150, every=20), tiny.out
    whole = start("train", tiny.data, "--out", out.with_name("whole"), "--config", recipe, "--json", processes=2)
    assert whole.wait() == 0, whole.communicate()[1]
    folder = out.with_name("stopped.training") / "tiny"
    words = ("train", tiny.data, "--out", out.with_name("stopped"), "--config", recipe, "--json")
    process = start(*words, processes=2)
    runs.wait(process, folder)
    # torchrun passes the signal on to its processes, but ends with an error of its own
    runs.stop(process, signal.SIGTERM)
    steps = [int(p.name.removeprefix("step-")) for p in (folder / "checkpoints").glob("step-*")]
    assert max(steps) < 150
    again = start(*words, processes=2)
    assert again.wait() == 0, again.communicate()[1]
    assert runs.parameters(folder) == runs.parameters(out.with_name("whole.training") / "tiny")


def test_averaged_weights_are_what_is_kept(tiny, capsys) -> None:
    tiny.write("a.npz", 150)
    recipe = tiny.config(steps=30, optimizer="average = 0.9")
    assert aion(capsys, "train", tiny.data, "--out", tiny.out, "--config", recipe, "--json")[0] == 0
    last = sorted(tiny.out.with_name("set.training").glob("tiny/checkpoints/step-*"))[-1]
    from safetensors.torch import load_file

    average, raw = load_file(last / "average.safetensors"), load_file(last / "parameters.safetensors")
    kept = load_file(tiny.out / "codecs/tiny/model.safetensors")
    name = "decode.2.weight"
    assert torch.equal(kept[name], average[f"network.{name}"])
    assert not torch.equal(kept[name], raw[f"network.{name}"])
    in_checkpoint = load_file(last / "tokenizers/codecs/tiny/model.safetensors")
    assert torch.equal(kept[name], in_checkpoint[name])


def test_what_codes_depend_on_learns_at_a_rate_of_its_own(tiny, capsys) -> None:
    tiny.write("a.npz", 50)
    first, moved = {}, {}
    for rate in (1, 0.1):
        out = tiny.out.with_name(f"rate-{rate}")
        words = ("train", tiny.data, "--out", out, "--config", tiny.config(steps=1))
        assert aion(capsys, *words, *settings(optimizer__encoder_lr=rate))[0] == 0
        trained = TokenizerSet.load(out, load_registry())["tiny_left"]
        first = dict(type(trained).build([trained.spec], 0, width=24)[0].network.named_parameters())
        moved[rate] = {name: (p - first[name]).abs().max().item() for name, p in trained.network.named_parameters()}
    assert first
    for name, distance in moved[1].items():
        ratio = 0.1 if name.startswith("encode") else 1.0
        assert moved[0.1][name] == pytest.approx(ratio * distance, rel=1e-2), name


def test_a_checkpoint_holds_a_tokenizer_set(tiny, capsys) -> None:
    tiny.write("a.npz", 150)
    assert aion(capsys, "train", tiny.data, "--out", tiny.out, "--config", tiny.config(), "--json")[0] == 0
    for checkpoint in tiny.out.with_name("set.training").glob("tiny/checkpoints/step-*"):
        assert list(TokenizerSet.load(checkpoint / "tokenizers", load_registry())) == ["tiny_left"]


def test_the_page_of_reconstructions_is_drawn_at_each_evaluation(tiny, capsys) -> None:
    tiny.write("a.npz", 150)
    words = settings(evaluate__every=10, evaluate__page=3)
    assert aion(capsys, "train", tiny.data, "--out", tiny.out, "--config", tiny.config(), "--json", *words)[0] == 0
    pages = sorted(p.name for p in (tiny.out.with_name("set.training") / "tiny/reconstructions").iterdir())
    assert pages == ["step-00000010-tiny_left.png", "step-00000020-tiny_left.png"]
    plots = tiny.out.with_name("plots")
    _, out, _ = aion(capsys, "eval", tiny.data, "--tokenizers", tiny.out, "--plots", plots, "--json")
    assert json.loads(out)["plots"] == [str(plots / "tiny_left.png")]
    assert (plots / "tiny_left.png").read_bytes().startswith(b"\x89PNG")


def test_sources_are_mixed_by_the_ratio_given(tiny, capsys) -> None:
    few, many = tiny.write("few.npz", 40), tiny.write("many.npz", 400, seed=9)
    recipe = tiny.config(steps=10)
    code, _, err = aion(capsys, "train", few, many, "--ratio", 3, 1, "--out", tiny.out, "--config", recipe, "--json")
    assert code == 0, err
    last = sorted(tiny.out.with_name("set.training").glob("tiny/checkpoints/step-*"))[-1]
    state = json.loads((last / "state.json").read_text())["position"]["0"]
    assert state["drawn"] == [120, 40]
    assert state["exhausted"] == [True, False]


def test_a_sweep_compares_codebooks(tiny, capsys) -> None:
    tiny.write("a.npz", 200)
    recipe, out = tiny.config(steps=60), tiny.out
    words = ("--modalities", "tiny_left", "--sweep", "codes=4,9,25", "--json")
    code, text, err = aion(capsys, "train", tiny.data, "--out", out, "--config", recipe, *words)
    assert code == 0, err
    table = json.loads(text)["sweep"]
    assert [(row["value"], row["vocab_size"]) for row in table] == [(4, 4), (9, 9), (25, 25)]
    assert table[0]["r2"] < table[2]["r2"]
    assert json.loads((out / "sweep.json").read_text())["sweep"] == table
    assert (out / "sweep.png").read_bytes().startswith(b"\x89PNG")


def test_a_sweep_takes_any_setting(tiny, capsys) -> None:
    tiny.write("a.npz", 200)
    words = ("--modalities", "tiny_left", "--sweep", "network.levels=[2,2],[5,5]")
    code, out, err = aion(capsys, "train", tiny.data, "--out", tiny.out, "--config", tiny.config(steps=8), *words)
    assert code == 0, err
    assert "network.levels = 2x2" in out
    assert "network.levels = 5x5" in out


def test_training_goes_on_from_a_set(tiny, capsys) -> None:
    tiny.write("a.npz", 150, tiny_number=np.random.default_rng(0).normal(size=150))
    recipe, first, second = tiny.config(steps=100), tiny.out, tiny.out.with_name("second")
    assert aion(capsys, "train", tiny.data, "--out", first, "--config", recipe, "--json")[0] == 0
    more = tiny.config("more", steps=1)
    more.write_text(more.read_text().replace("[network]\nwidth = 24\n", ""))
    words = ("--from", first, "--modalities", "tiny_left", "--json", *settings(optimizer__lr=1e-9))
    code, out, err = aion(capsys, "train", tiny.data, "--out", second, "--config", more, *words)
    assert code == 0, err
    assert json.loads(out)["modalities"]["tiny_left"]["r2"] > 0.5
    assert list(TokenizerSet.load(second, load_registry())) == ["tiny_left", "tiny_number"]


def test_export_writes_the_layout_of_the_release_and_its_checksums(tiny, capsys) -> None:
    import hashlib

    tiny.write("a.npz", 150, keys=("left", "right"), tiny_number=np.random.default_rng(0).normal(size=150))
    assert aion(capsys, "train", tiny.data, "--out", tiny.out, "--config", tiny.config(), "--json")[0] == 0
    release = tiny.out.with_name("release")
    words = ("export", "tiny_left", "tiny_right", "--tokenizers", tiny.out, "--out", release)
    code, out, err = aion(capsys, *words, "--json")
    assert code == 0, err
    weights = release / "codecs/tiny/model.safetensors"
    expected = hashlib.sha256(weights.read_bytes()).hexdigest()
    entries = json.loads(out)["codecs"]
    assert [entry["key"] for entry in entries] == ["tiny_left", "tiny_right"]
    assert {(entry["weights"], entry["sha256"]) for entry in entries} == {(str(weights), expected)}
    assert not (release / "codecs/tiny_number").exists()
    code, _, err = aion(capsys, *words)
    assert code == 2
    assert "exists; choose another --out" in err


class TestRefusals:
    """One sentence, exit code 2, and nothing written."""

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            (["--preset", "aion1-spectrum"], "no --preset or --config given is for kind 'scalar_field'"),
            (["--preset", "aion1-spectrm"], "Did you mean 'aion1-spectrum'?"),
            ([], "name a recipe"),
            (["--ratio", "1"], "name a recipe, too"),
            (["--config", "RECIPE", "--ratio", "1", "2"], "2 numbers for 1 PATHs"),
            (["--config", "RECIPE", "--set", "optimizer.lrr=1"], "Did you mean 'lr'?"),
            (["--config", "RECIPE", "--set", "network.widht=1"], "does not take the settings"),
            (["--config", "RECIPE", "--set", "data.lanes=3"], "cannot be drawn evenly from 3 lanes"),
            (["--config", "RECIPE", "--set", "run.device=cuda"], "this machine has no usable GPU"),
            (["--config", "RECIPE", "--set", "train_only=new"], "nothing new to train alone"),
            (["--config", "RECIPE", "--sweep", "codes"], "expected SETTING=A,B"),
            (["--config", "RECIPE", "--sweep", "codes=a"], "expected SETTING=A,B"),
            (["--config", "RECIPE", "--modalities", "tiny_right"], "no object to train on with tiny_right"),
        ],
    )
    def test_settings_that_make_no_sense(self, tiny, capsys, words, message) -> None:
        if "run.device=cuda" in words and torch.cuda.is_available():
            pytest.skip("there is a GPU")
        tiny.write("a.npz", 100)
        words = [str(tiny.config()) if word == "RECIPE" else word for word in words]
        words = words if "--modalities" in words else [*words, "--modalities", "tiny_left"]
        code, out, err = aion(capsys, "train", tiny.data, "--out", tiny.out, *words)
        assert (code, out, err.count("\n")) == (2, "", 1), err
        assert message in err
        assert not tiny.out.exists()

    def test_an_existing_set(self, tiny, capsys) -> None:
        tiny.write("a.npz", 100)
        words = ("train", tiny.data, "--out", tiny.out, "--config", tiny.config(), "--json")
        assert aion(capsys, *words)[0] == 0
        code, _, err = aion(capsys, *words)
        assert code == 2
        assert "choose another --out, or replace that tokenizer set with --overwrite" in err
        assert aion(capsys, *words, "--overwrite")[0] == 0

    def test_other_settings_on_resume(self, tiny, capsys) -> None:
        tiny.write("a.npz", 100)
        words = ("train", tiny.data, "--out", tiny.out, "--config", tiny.config(), "--json", "--overwrite")
        assert aion(capsys, *words)[0] == 0
        code, _, err = aion(capsys, *words, *settings(optimizer__lr=0.5))
        assert code == 2
        assert "optimizer.lr: 0.01 → 0.5" in err
        assert "choose another --out" in err
        assert aion(capsys, *words, *settings(evaluate__objects=10))[0] == 0

    def test_a_batch_that_the_processes_cannot_share(self, tiny, start) -> None:
        tiny.write("a.npz", 100)
        words = ("--config", tiny.config(), *settings(data__batch_size=15))
        process = start("train", tiny.data, "--out", tiny.out, *words, processes=2)
        _, err = process.communicate()
        assert process.returncode != 0
        assert "data.batch_size 15 cannot be drawn evenly" in err

    def test_a_damaged_file_that_was_named(self, tiny, capsys) -> None:
        path = tiny.write("a.npz", 100, broken_at=np.array(48))
        code, _, err = aion(capsys, "train", path, "--out", tiny.out, "--config", tiny.config())
        assert code == 2
        assert "is damaged" in err
        assert not tiny.out.exists()


def test_a_training_that_diverges_ends_with_a_sentence_and_names_its_objects(tiny, capsys) -> None:
    tiny.write("a.npz", 100)
    changes = settings(optimizer__lr=1e38, optimizer__clip_norm=1e38, optimizer__max_skipped=3)
    code, _, err = aion(capsys, "train", tiny.data, "--out", tiny.out, "--config", tiny.config(), *changes)
    assert code == 2
    assert "3 steps in a row had a non-finite loss" in err
    log = [json.loads(line) for line in (tiny.out.with_name("set.training") / "tiny/metrics.jsonl").open()]
    skipped = [line for line in log if line["kind"] == "skipped"]
    assert len(skipped) == 3
    assert all(len(line["samples"]) == 16 and line["samples"][0].startswith("a.npz: a-") for line in skipped)


def test_without_held_out_objects_it_trains_and_says_so(tiny, capsys) -> None:
    tiny.write("a.npz", 100)
    words = settings(data__split__fraction=0.0)
    code, out, err = aion(capsys, "train", tiny.data, "--out", tiny.out, "--config", tiny.config(), *words)
    assert code == 0, err
    assert "no object is held out" in out


class TestSaving:
    """A save that fails half-way leaves the checkpoint before it, and the training goes on from there."""

    def saving(self, tiny, at: int, fault: str) -> str:
        """Return a script that trains, and meets with a fault while it writes the checkpoint of a step."""
        words = ["tokenizer", "train", str(tiny.data), "--out", str(tiny.out), "--config", str(tiny.config(steps=40))]
        return (
            "import os, signal, sys\n"
            "from aion_core import files\n"
            "from aion_core.tokenizers.training import trainer\n"
            "write = trainer.write_safetensors\n"
            "def faulty(path, tensors, metadata=None):\n"
            f"    if 'step-{at:08d}' in str(path):\n"
            "        path.write_bytes(b'half')\n"
            f"        {fault}\n"
            "    write(path, tensors, metadata)\n"
            "trainer.write_safetensors = faulty\n"
            "from aion_core.cli import main\n"
            f"sys.exit(main({words!r}))\n"
        )

    def run(self, script: str) -> tuple[int, str]:
        import subprocess
        import sys

        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
        return done.returncode, done.stderr

    @pytest.mark.parametrize(
        ("fault", "code"),
        [("os.kill(os.getpid(), signal.SIGKILL)", -9), ("raise OSError(28, 'No space left on device', str(path))", 2)],
    )
    def test_kill_and_full_disk(self, tiny, capsys, runs, fault, code) -> None:
        tiny.write("a.npz", 100)
        found, err = self.run(self.saving(tiny, 20, fault))
        assert found == code, err
        if code == 2:
            assert "No space left on device" in err
            assert err.count("\n") == 1
        folder = tiny.out.with_name("set.training") / "tiny"
        whole = sorted(p.name for p in (folder / "checkpoints").glob("step-*"))
        assert whole[-1] == "step-00000015"
        assert not tiny.out.exists()
        words = ("train", tiny.data, "--config", tiny.config(steps=40), "--json")
        assert aion(capsys, *words, "--out", tiny.out)[0] == 0
        assert aion(capsys, *words, "--out", tiny.out.with_name("whole"))[0] == 0
        assert runs.parameters(folder) == runs.parameters(tiny.out.with_name("whole.training") / "tiny")
        assert not list((folder / "checkpoints").glob(".*"))
