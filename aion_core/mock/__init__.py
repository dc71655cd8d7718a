"""A mock sky with known truth: galaxies, stars and quasars, and generic instruments to observe them with.

Plugins' simulators observe it as their surveys would, in their own file formats; see `aion_core.mock.simulate`.
"""

from aion_core.files import replacing
from aion_core.mock.objects import FIELD, GALAXY, KINDS, QUASAR, STAR, MockObjects, draw, generator, stream
from aion_core.mock.simulate import write_fits

__all__ = [
    "FIELD",
    "GALAXY",
    "KINDS",
    "QUASAR",
    "STAR",
    "MockObjects",
    "draw",
    "generator",
    "replacing",
    "stream",
    "write_fits",
]
