"""The forty modalities of the survey plugins, together: the keys of DESIGN section 4, and the release's tables."""

from __future__ import annotations

import pytest
from aion.fourm.modality_info import MODALITY_INFO

from aion_core.plugins import load_registry

KEYS = """
    hsc_image hsc_mag_g hsc_mag_r hsc_mag_i hsc_mag_z hsc_mag_y
    hsc_extinction_g hsc_extinction_r hsc_extinction_i hsc_extinction_z hsc_extinction_y
    hsc_shape_11 hsc_shape_22 hsc_shape_12 legacy_image legacy_segmap
    legacy_flux_g legacy_flux_r legacy_flux_i legacy_flux_z legacy_flux_w1 legacy_flux_w2 legacy_flux_w3 legacy_flux_w4
    legacy_ebv legacy_shape_r legacy_shape_e1 legacy_shape_e2 desi_spectrum sdss_spectrum
    gaia_xp_bp gaia_xp_rp gaia_flux_g gaia_flux_bp gaia_flux_rp gaia_parallax gaia_ra gaia_dec
    catalog_sources catalog_redshift
""".split()  # noqa: SIM905

ALONE = """
import sys
from aion_core.plugins import load_registry
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.startswith("aion_tok_") and not name.startswith("aion_tok_{0}"):
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Absent())
registry = load_registry()
assert all(key.startswith("{0}_") for key in registry.modalities), list(registry.modalities)
assert len(registry.modalities) == {1}
print(*(name for failure in registry.failures for name in failure.distributions))
"""


@pytest.fixture(scope="module")
def registry():
    return load_registry()


def test_the_forty_keys_are_installed_and_whole(registry):
    assert len(KEYS) == 40
    assert set(KEYS) <= set(registry.modalities)
    assert not [failure for failure in registry.failures if failure.plugin in {k.split("_")[0] for k in KEYS}]


def test_the_release_has_no_modality_that_no_plugin_declares(registry):
    assert {registry.resolve(upstream).key for upstream in MODALITY_INFO} == set(KEYS)


@pytest.mark.parametrize("upstream", MODALITY_INFO)
def test_vocabulary_and_shape_are_those_of_the_release(registry, upstream):
    info, spec = MODALITY_INFO[upstream], registry.resolve(upstream)
    embedding = info["encoder_embedding"].keywords
    assert spec.vocab_size == info["vocab_size"] == embedding["vocab_size"]
    if "max_length" in embedding:
        assert spec.shape == (embedding["max_length"],)
        assert spec.order == "causal"
        return
    height, width = (n // embedding["patch_size"] for n in embedding["image_size"])
    assert spec.shape == ((height,) if width == 1 else (height, width))
    assert spec.position == ("scalar" if height == 1 else "grid2d")


def test_the_token_space_of_all_has_the_rows_of_the_release(registry):
    space = registry.token_space(KEYS)
    assert space.offsets[-1] == sum(info["vocab_size"] for info in MODALITY_INFO.values())


@pytest.mark.parametrize("name", sorted({key.split("_")[0] for key in KEYS}))
def test_a_plugin_stands_without_the_others(name, broken, tmp_path):
    own = [key for key in KEYS if key.startswith(f"{name}_")]
    done = broken.python(tmp_path, "-c", ALONE.format(name, len(own)))
    assert done.returncode == 0, done.stderr
    assert f"aion-tok-{name}" not in done.stdout
