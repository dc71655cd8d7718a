"""What every plugin's declarations must hold, as tests to inherit."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import ClassVar
from unittest import mock

from aion_core.contract import ModalitySpec, provenance_id
from aion_core.plugins import load_registry


class SpecContract:
    """Rules on the modalities that a plugin declares.

    Examples
    --------
    >>> class TestMine(SpecContract):
    ...     plugin = "mine"
    ...     modalities = ()
    ...     upstream = {}
    """

    #: Name of the entry point, with which every key begins.
    plugin: ClassVar[str]
    #: What the plugin declares, in order.
    modalities: ClassVar[Sequence[ModalitySpec]]
    #: Key: upstream key and codec in the AION-1 release; None where it has none.
    upstream: ClassVar[Mapping[str, tuple[str | None, str | None]]]
    #: What the provenance IDs were made of, once; a changed number is another measurement.
    provenance_uri: ClassVar[str] = "urn:aion:{key}"

    def test_every_modality_has_its_name_in_the_release(self) -> None:
        declared = {spec.key: (spec.upstream_key, spec.upstream_codec) for spec in self.modalities}
        assert declared == dict(self.upstream)

    def test_keys_begin_with_the_plugins_name(self) -> None:
        assert [spec.key for spec in self.modalities if not spec.key.startswith(f"{self.plugin}_")] == []

    def test_units_and_quantities_are_ones_that_astropy_and_the_ivoa_know(self) -> None:
        from astropy.io.votable.ucd import parse_ucd
        from astropy.units import Unit

        for spec in self.modalities:
            Unit(spec.units)
            parse_ucd(spec.quantity, check_controlled_vocabulary=True)

    def test_provenance_is_stable_and_citable(self) -> None:
        for spec in self.modalities:
            expected = provenance_id(self.provenance_uri.format(key=spec.key))
            assert spec.provenance.id == expected, f"{spec.key}: its provenance ID was {expected}, and may never change"
            assert spec.provenance.doi, f"{spec.key}: give the DOI of its release"

    def test_every_tokenizer_that_is_named_can_be_built(self) -> None:
        from aion_core.tokenizers import build_tokenizer

        for spec in self.modalities:
            assert spec.tokenizer is None or build_tokenizer(spec).spec == spec

    def test_the_plugin_is_whole_by_itself(self) -> None:
        with mock.patch.dict(os.environ, {"AION_PLUGINS": self.plugin}):
            registry = load_registry()
        assert registry.failures == ()
        assert tuple(registry.modalities.values()) == tuple(self.modalities)
