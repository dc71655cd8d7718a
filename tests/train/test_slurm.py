"""slurm/train.sbatch, with a Slurm of three small scripts: it starts torchrun, saves when told, and requeues itself."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "slurm" / "train.sbatch"

#: As the real ones, as far as the script uses them: a step is a process group of its own.
SLURM = {
    "srun": 'while [[ $1 == --* ]]; do shift; done; echo $$ > "$FAKE/step"; exec setsid "$@"',
    "scontrol": 'if [[ $1 == show ]]; then echo localhost; else echo "$@" >> "$FAKE/asked"; fi',
    "scancel": '[[ $1 == --signal=USR1 && $2 == 7.0 ]] && kill -USR1 -- "-$(cat "$FAKE/step")"',
}


@pytest.fixture
def submit(tmp_path):
    """Start the script as Slurm would, with further fake commands."""
    fake = tmp_path / "fake"
    fake.mkdir()

    def start(*words: object, **commands: str) -> subprocess.Popen[str]:
        for name, text in (SLURM | commands).items():
            (fake / name).write_text(f"#!/usr/bin/env bash\n{text}\n")
            (fake / name).chmod(0o755)
        environment = {
            **os.environ, "FAKE": str(fake), "PATH": f"{fake}:{Path(sys.executable).parent}:{os.environ['PATH']}",
            "SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "n[1-2]", "SLURM_JOB_NUM_NODES": "1", "SLURM_GPUS_ON_NODE": "1",
        }  # fmt: skip
        command = ["bash", str(SCRIPT), *map(str, words)]
        return subprocess.Popen(
            command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    start.requeued = lambda: (fake / "asked").read_text().splitlines() if (fake / "asked").exists() else []
    return start


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "train.toml"
    path.write_text("")
    return path


def test_torchrun_gets_the_nodes_the_processes_and_the_options(submit, config) -> None:
    run = submit(config, "--set", "a.b=c d", torchrun='printf "%s\\n" "$OMP_NUM_THREADS" "$@"')
    out, err = run.communicate()
    assert (run.returncode, err) == (0, "")
    assert out.splitlines() == [
        "1", "--nnodes=1", "--nproc-per-node=1", "--max-restarts=0", "--rdzv-id=7.0", "--rdzv-backend=c10d",
        "--rdzv-endpoint=localhost:20007", "-m", "aion_core.cli", "train", str(config), "--set", "a.b=c d", "--quiet",
    ]  # fmt: skip
    assert submit.requeued() == []


def test_a_run_that_fails_is_not_requeued_and_its_status_stays(submit, config) -> None:
    run = submit(config, torchrun="exit 3")
    run.communicate()
    assert run.returncode == 3
    assert submit.requeued() == []


@pytest.mark.parametrize("words", [(), ("nowhere.toml",)])
def test_without_a_configuration_it_says_how_it_is_used(submit, words) -> None:
    run = submit(*words)
    assert run.communicate()[1].startswith("usage: sbatch")
    assert run.returncode == 2


def test_slurm_reads_its_options_before_the_first_command(config) -> None:
    lines = SCRIPT.read_text().splitlines()
    first = next(i for i, line in enumerate(lines) if line and not line.startswith("#"))
    options = [i for i, line in enumerate(lines) if line.startswith("#SBATCH")]
    assert max(options) < first
    assert {"#SBATCH --requeue", "#SBATCH --signal=B:USR1@120"} <= set(lines)


def test_a_job_whose_time_is_over_saves_and_goes_on_later(submit, make_store, make_config, tmp_path) -> None:
    make_store()
    config, checkpoints = make_config(steps=100_000), tmp_path / "run" / "checkpoints"
    run = submit(config, "--json")
    deadline = time.monotonic() + 120
    while not list(checkpoints.glob("step-*")):
        assert run.poll() is None, run.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    run.send_signal(signal.SIGUSR1)
    out, err = run.communicate()
    assert run.returncode == 0, err
    found = json.loads(re.search(r"^\{.*?^\}", out, re.MULTILINE | re.DOTALL)[0])
    assert (found["finished"], found["stopped_by"]) == (False, "SIGUSR1")
    assert (checkpoints / f"step-{found['step']:08d}").is_dir()
    assert submit.requeued() == ["requeue 7"]
