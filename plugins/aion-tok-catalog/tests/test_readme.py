"""What the README tells users to write is what the reader takes."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from aion_tok_catalog.reader import TableReader

README = Path(__file__).parents[1] / "README.md"


def test_the_options_in_the_readme_are_options() -> None:
    (block,) = re.findall(r"```toml\n(.*?)```", README.read_text(), re.DOTALL)
    options = TableReader.Options.model_validate(tomllib.loads(block)["catalog_tables"])
    redshifts, grouped, around = options.tables
    assert redshifts.matches(Path("archive/spectroscopy/a.csv"))
    assert grouped.sources is not None
    assert around.sources is not None
    assert around.in_file() == {"ra", "dec", "shape_e1", "shape_e2", "shape_r"}
