"""What the README tells users to write is what the reader takes."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from aion_tok_sdss.reader import SpectrumReader

README = Path(__file__).parents[1] / "README.md"


def test_the_options_in_the_readme_are_options() -> None:
    (block,) = re.findall(r"```toml\n(.*?)```", README.read_text(), re.DOTALL)
    (section,) = tomllib.loads(block).values()
    assert SpectrumReader.Options.model_validate(section).sky
    assert section.keys() == SpectrumReader.Options.model_fields.keys()  # all of them are told
