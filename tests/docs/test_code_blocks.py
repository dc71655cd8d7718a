"""Every code block of the documentation runs: those of one page one after another, in one empty folder."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
import venv
from itertools import groupby, takewhile
from pathlib import Path

import numpy as np
import pytest

from aion_core import AionModel, Scalar, load_registry
from aion_core.model import AionConfig
from aion_core.tokenizers.base import build_tokenizer
from aion_core.tokenizers.field import ScalarFieldTokenizer
from aion_core.tokenizers.image import ImageTokenizer

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(bash|python)\n(.*?)^```", re.MULTILINE | re.DOTALL)
#: ```text blocks show, and are not run.
LANGUAGES = re.compile(r"^```(\w+)", re.MULTILINE)
#: Runs blocks that follow each other, none of which sees what another has named: importing torch takes seconds.
RUN = "import sys; [exec(compile(code, code, 'exec'), {'__name__': '__main__'}) for code in sys.argv[1:]]"
#: Pages that install something, and take minutes.
INSTALLING = {"add-a-survey.md"}
#: Pages for `make test-all` only, what they show being tested elsewhere command by command.
DEAR = INSTALLING | {"readers.md", "released-models.md"}
#: Of such a page, what takes tens of seconds; besides a check, after which a page goes on as if there had been none.
CHECK = "aion plugins check"
LONG = re.compile(r"^aion (mock|tokenizer|tokenize|train)\b", re.MULTILINE)


def overlay(folder: Path) -> Path:
    """Make a virtual environment that sees all that is installed here and is installed into alone; return its bin."""
    venv.create(folder, with_pip=False, symlinks=True)
    site = Path(sysconfig.get_path("purelib", vars={"base": str(folder)}))
    (site / "_here.pth").write_text(f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n")
    for name, module in (("aion", "aion_core.cli"), ("pip", "pip"), ("pytest", "pytest")):
        script = folder / "bin" / name
        script.write_text(f'#!/bin/sh\nexec {folder}/bin/python -m {module} "$@"\n')
        script.chmod(0o755)
    return folder / "bin"


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model and tokenizers in the release's layout, small and untrained: the real one is not at hand here."""
    folder, registry = tmp_path_factory.mktemp("release"), load_registry()
    fluxes = [f"legacy_flux_{band}" for band in ("g", "r", "z")]
    space = registry.token_space(["legacy_image", "legacy_segmap", *fluxes, "catalog_redshift"])
    config = AionConfig(dim=32, encoder_depth=1, decoder_depth=1, num_heads=2)
    AionModel(config, space).save_pretrained(folder, layout="release")
    image, field = registry.resolve("legacy_image"), registry.resolve("legacy_segmap")
    ImageTokenizer.build([image], hidden_dims=16, num_consecutive=1)[0].save_pretrained(folder)
    ScalarFieldTokenizer.build([field])[0].save_pretrained(folder)
    for key in (*fluxes, "catalog_redshift"):
        scalar = build_tokenizer(registry.resolve(key))
        scalar.observe(Scalar(np.random.default_rng(0).lognormal(size=2000)))
        scalar.finish()
        scalar.save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    "page",
    [pytest.param(page, marks=[pytest.mark.slow] if page.name in DEAR else []) for page in PAGES],
    ids=lambda page: page.name,
)
def test_the_code_on_a_page_runs(page: Path, tmp_path: Path, sample_dir: Path, release: Path) -> None:
    binaries = overlay(tmp_path / ".overlay") if page.name in INSTALLING else Path(sys.executable).parent
    more = {"AION_SAMPLE_DIR": str(sample_dir.resolve()), "AION_RELEASE": str(release)}
    run_blocks(BLOCK.findall(page.read_text()), tmp_path, binaries, more)


@pytest.mark.parametrize("name", sorted(INSTALLING))
def test_a_page_that_installs_a_plugin_can_be_followed_up_to_its_first_long_command(name: str, tmp_path: Path) -> None:
    blocks = BLOCK.findall((ROOT / "docs" / name).read_text())
    short = [block for block in takewhile(lambda block: not LONG.search(block[1]), blocks) if CHECK not in block[1]]
    assert len(short) > 3
    run_blocks(short, tmp_path, overlay(tmp_path / ".overlay"), {})


def run_blocks(blocks: list[tuple[str, str]], folder: Path, binaries: Path, more: dict[str, str]) -> None:
    """Run blocks one after another in a folder; Python's that follow each other share a process."""
    environment = {**os.environ, **more, "PATH": f"{binaries}{os.pathsep}{os.environ['PATH']}"}
    for language, together in groupby(blocks, key=lambda block: block[0]):
        codes = [code for _, code in together]
        python = [str(binaries / "python"), "-c", RUN, *codes]
        for command in [["bash", "-euc", code] for code in codes] if language == "bash" else [python]:
            done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
            assert done.returncode == 0, f"{codes}\n{done.stdout}\n{done.stderr}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_block_escapes_by_its_language(page: Path) -> None:
    assert set(LANGUAGES.findall(page.read_text())) <= {"bash", "python", "text"}
