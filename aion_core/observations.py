"""The five observations: validated batches of what was measured, as torch tensors.

Whatever comes in (tensor, NumPy array of any byte order, table column, astropy `Quantity`, list) is converted once,
to float32 (masks to bool), and never written to; where nothing needs converting, memory is shared. Entries that a
masked array hides become NaN. Shapes, bands and units are checked here, at the edge; values are not: NaN, infinities
and empty batches (B = 0) pass.

float32 resolves 0.1 arcsec at a right ascension of 360 degrees. That is far below the width of a token, but too
coarse for matching catalogues: exact positions travel in `aion_core.data.ObservationBatch`, as float64.

Units: `Spectrum.wavelength` is in Angstrom, and a `Quantity` is converted to it. The unit of a flux or a scalar is
fixed by its modality, not by the class, so a `Quantity` keeps its unit, in `unit`, and the tokenizer converts it (or
refuses it). ``unit="..."`` states the unit of bare numbers, or the one to convert to. Bare numbers without it are in
the modality's own unit.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Self, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from aion_core.contract import InputError

#: Anything that holds numbers: tensors, NumPy arrays, table columns, astropy quantities, nested lists.
Array: TypeAlias = Any
#: What selects objects: a slice, a row number, or an index or boolean array.
Rows: TypeAlias = slice | int | Sequence[int] | npt.NDArray[Any] | Tensor


@dataclass(frozen=True, eq=False, init=False)
class Observation:
    """Base of all observations: B objects, whose tensors have B as their first axis.

    A plugin's own class (kind ``other``) subclasses this as a frozen dataclass and names in `batched` the fields
    whose first axis is B.
    """

    batched: ClassVar[tuple[str, ...]] = ()
    #: Fields measured in `unit` to the given power.
    powers: ClassVar[dict[str, int]] = {}

    def __len__(self) -> int:
        return len(getattr(self, self.batched[0]))

    def __getitem__(self, rows: Rows) -> Self:
        """Return some of the objects, in the order given; a row number gives a batch of one."""
        if isinstance(rows, int | np.integer):
            rows = [range(len(self))[int(rows)]]
        index = rows if isinstance(rows, slice | Tensor) else torch.as_tensor(np.array(rows, dtype=_index_type(rows)))
        return self._with({name: _take(getattr(self, name), index) for name in self._present()})

    @classmethod
    def concatenate(cls, parts: Sequence[Self]) -> Self:
        """Return the objects of all parts, one after the other.

        Raises
        ------
        InputError
            If there are no parts, or if they differ in their unbatched fields (bands, unit, …), in shape, or in
            which optional fields they have.
        """
        if not parts:
            raise InputError(f"Nothing to concatenate: expected at least one {cls.__name__}.")
        first = parts[0]
        for part in parts[1:]:
            for name in (f.name for f in fields(first)):
                a, b = getattr(first, name), getattr(part, name)
                if name not in cls.batched or a is None or b is None:
                    if a is not b and a != b:
                        raise InputError(f"{cls.__name__}s to concatenate differ in {name}: {_short(a)}, {_short(b)}.")
                elif a.shape[1:] != b.shape[1:]:
                    raise InputError(
                        f"{cls.__name__}s to concatenate differ in the shape of {name}: {_dims(a)} and {_dims(b)}."
                    )
        return first._with({name: _join([getattr(p, name) for p in parts]) for name in first._present()})

    def to(self, device: torch.device | str) -> Self:
        """Return the observation with its tensors on a device."""
        return self._with({name: _move(getattr(self, name), device) for name in self._present()})

    @property
    def device(self) -> torch.device:
        tensor: Tensor = getattr(self, self.batched[0])
        return tensor.device

    def in_unit(self, unit: str) -> Self:
        """Return the observation in a unit (astropy's syntax; empty if dimensionless).

        One that states no unit is returned as it is: its numbers are in the modality's own.

        Raises
        ------
        InputError
            If the unit that it states cannot be converted.
        """
        stated: str | None = getattr(self, "unit", None)
        if stated is None or stated == unit:
            return self
        factor = _factor(stated, unit, type(self).__name__)
        changed: dict[str, Any] = {"unit": unit}
        if factor != 1.0:
            for name, power in self.powers.items():
                if getattr(self, name) is not None:
                    changed[name] = getattr(self, name) * factor**power
        return self._with(changed)

    def _present(self) -> list[str]:
        return [name for name in self.batched if getattr(self, name) is not None]

    def _with(self, changed: dict[str, Any]) -> Self:
        """Return a copy with some fields replaced by values that need no checking."""
        new = object.__new__(type(self))
        _assign(new, {f.name: getattr(self, f.name) for f in fields(self)} | changed)
        return new


@dataclass(frozen=True, eq=False, init=False)
class Image(Observation):
    """Calibrated image cutouts, one plane per band.

    Attributes
    ----------
    flux
        ``[B, C, H, W]`` in the survey's own units.
    bands
        C distinct band names.
    ivar
        Inverse variance of the flux, ``[B, C, H, W]``.
    mask
        True where a pixel is **bad**: ``[B, C, H, W]``; ``[B, H, W]`` holds for every band.
    zero_point
        AB magnitude of one flux unit, one per band (a single number holds for all); None: the bands' own.
    pixel_scale
        Arcsec per pixel; None: the bands' own.
    unit
        Unit of `flux`, if it was stated.
    """

    flux: Tensor
    bands: tuple[str, ...]
    ivar: Tensor | None
    mask: Tensor | None
    zero_point: tuple[float, ...] | None
    pixel_scale: float | None
    unit: str | None

    batched: ClassVar[tuple[str, ...]] = ("flux", "ivar", "mask")
    powers: ClassVar[dict[str, int]] = {"flux": 1, "ivar": -2}

    def __init__(
        self,
        flux: Array,
        bands: Sequence[str],
        ivar: Array | None = None,
        mask: Array | None = None,
        zero_point: float | Sequence[float] | None = None,
        pixel_scale: float | None = None,
        *,
        unit: str | None = None,
    ) -> None:
        flux, unit = _measured(flux, "Image.flux", unit)
        _rank(flux, "Image.flux", "B, C, H, W")
        names = _band_names(bands, flux.shape[1])
        ivar = _ivar(ivar, "Image.ivar", unit)
        mask = _bad(mask, "Image.mask")
        if mask is not None and mask.ndim == 3 and mask.shape == (*flux.shape[:1], *flux.shape[2:]):
            mask = mask[:, None].expand(flux.shape)
        _same_shape(flux, "Image.flux", ivar=ivar, mask=mask)
        zero_points = _per_band(zero_point, len(names))
        if pixel_scale is not None and not float(pixel_scale) > 0:
            raise InputError(f"Image.pixel_scale is {pixel_scale}; expected arcsec per pixel, above zero.")
        scale = None if pixel_scale is None else float(pixel_scale)
        _assign(self, {"flux": flux, "bands": names, "ivar": ivar, "mask": mask, "unit": unit})
        _assign(self, {"zero_point": zero_points, "pixel_scale": scale})


@dataclass(frozen=True, eq=False, init=False)
class Spectrum(Observation):
    """Spectra on their native wavelength grids.

    Attributes
    ----------
    flux
        ``[B, L]``, per unit wavelength.
    wavelength
        Vacuum wavelength in Angstrom, always ``[B, L]`` here; a grid ``[L]`` that all objects share is accepted, and
        costs the memory of one row.
    ivar
        Inverse variance of the flux, ``[B, L]``.
    mask
        True where a pixel is **bad**, ``[B, L]``.
    unit
        Unit of `flux`, if it was stated.
    """

    flux: Tensor
    wavelength: Tensor
    ivar: Tensor | None
    mask: Tensor | None
    unit: str | None

    batched: ClassVar[tuple[str, ...]] = ("flux", "wavelength", "ivar", "mask")
    powers: ClassVar[dict[str, int]] = {"flux": 1, "ivar": -2}

    def __init__(
        self,
        flux: Array,
        wavelength: Array,
        ivar: Array | None = None,
        mask: Array | None = None,
        *,
        unit: str | None = None,
    ) -> None:
        flux, unit = _measured(flux, "Spectrum.flux", unit)
        _rank(flux, "Spectrum.flux", "B, L")
        grid, _ = _measured(wavelength, "Spectrum.wavelength", "Angstrom")
        if grid.shape == flux.shape[1:]:
            grid = grid.expand(flux.shape)
        ivar = _ivar(ivar, "Spectrum.ivar", unit)
        mask = _bad(mask, "Spectrum.mask")
        _same_shape(flux, "Spectrum.flux", wavelength=grid, ivar=ivar, mask=mask)
        _assign(self, {"flux": flux, "wavelength": grid, "ivar": ivar, "mask": mask, "unit": unit})


@dataclass(frozen=True, eq=False, init=False)
class Scalar(Observation):
    """One number per object, ``[B]``, or n of them (coefficients), ``[B, n]``; NaN where there is none."""

    value: Tensor
    unit: str | None

    batched: ClassVar[tuple[str, ...]] = ("value",)
    powers: ClassVar[dict[str, int]] = {"value": 1}

    def __init__(self, value: Array, *, unit: str | None = None) -> None:
        value, unit = _measured(value, "Scalar.value", unit)
        if value.ndim not in (1, 2):
            raise InputError(f"Scalar.value has shape {_dims(value)}; expected [B] or [B, n].")
        _assign(self, {"value": value, "unit": unit})


@dataclass(frozen=True, eq=False, init=False)
class ScalarField(Observation):
    """A dimensionless map per object, ``[B, H, W]``, such as a segmentation mask in [0, 1]."""

    value: Tensor

    batched: ClassVar[tuple[str, ...]] = ("value",)

    def __init__(self, value: Array) -> None:
        value, _ = _measured(value, "ScalarField.value", "")
        _rank(value, "ScalarField.value", "B, H, W")
        _assign(self, {"value": value})


@dataclass(frozen=True, eq=False, init=False)
class SourceList(Observation):
    """Sources in a cutout: up to n per object, the rest NaN.

    Attributes
    ----------
    x, y
        Position in pixels of the 96-pixel crop, ``[B, n]``.
    e1, e2
        Ellipticity components, ``[B, n]``.
    radius
        Half-light radius in arcsec, ``[B, n]``.
    """

    x: Tensor
    y: Tensor
    e1: Tensor
    e2: Tensor
    radius: Tensor

    batched: ClassVar[tuple[str, ...]] = ("x", "y", "e1", "e2", "radius")

    def __init__(self, x: Array, y: Array, e1: Array, e2: Array, radius: Array) -> None:
        units = {"x": "pix", "y": "pix", "e1": "", "e2": "", "radius": "arcsec"}
        given = dict(zip(units, (x, y, e1, e2, radius), strict=True))
        found = {name: _measured(given[name], f"SourceList.{name}", units[name])[0] for name in units}
        first = found.pop("x")
        _rank(first, "SourceList.x", "B, n")
        _same_shape(first, "SourceList.x", **found)
        _assign(self, {"x": first, **found})


def _measured(value: Array, name: str, unit: str | None, power: int = 1) -> tuple[Tensor, str | None]:
    """Return float32 numbers and their unit: `unit` if given (a quantity is converted to its power), else its own."""
    own = getattr(value, "unit", None)
    if own is None or not hasattr(own, "to"):
        return _numbers(value, name), unit
    bare = getattr(value, "value", value)
    found = own.to_string()
    if unit is None:
        return _numbers(bare, name), found
    return _numbers(bare, name, _factor(found, unit, name, power)), unit


def _ivar(value: Array | None, name: str, unit: str | None) -> Tensor | None:
    if value is None:
        return None
    if getattr(value, "unit", None) is not None and unit is None:
        raise InputError(f"{name} has unit '{value.unit}', but the flux has none; give both as quantities, or neither.")
    return _measured(value, name, unit, power=-2)[0]


def _factor(found: str, wanted: str, name: str, power: int = 1) -> float:
    """Return what numbers in one unit are to be multiplied with to be in (a power of) another."""
    from astropy import units

    try:
        source, target = units.Unit(found), units.Unit(wanted)
        if source == target and power == 1:
            return 1.0
        if isinstance(source, units.UnitBase) and isinstance(target, units.UnitBase):  # else logarithmic: no factor
            return float(source.to(target**power))
    except (units.UnitsError, ValueError, TypeError):
        pass
    shown = f"'{wanted}'{f' to the power {power}' if power != 1 else ''}" if wanted else "a dimensionless number"
    raise InputError(f"{name} has unit '{found}'; expected {shown}, or what converts to it by a factor.")


def _numbers(value: Array, name: str, factor: float = 1.0) -> Tensor:
    """Return float32 numbers that share memory where they can and are never written to."""
    if isinstance(value, Tensor):
        if value.is_complex() or value.dtype == torch.bool:
            raise InputError(f"{name} holds {value.dtype}; expected real numbers.")
        return value.to(torch.float32)
    try:
        array = np.asarray(value)
    except (ValueError, TypeError) as error:
        raise InputError(f"{name} is not a rectangular array of numbers ({error}).") from None
    if array.dtype.kind not in "fiu":
        raise InputError(f"{name} holds {array.dtype}; expected real numbers.")
    hidden = np.asarray(getattr(value, "mask", False), dtype=bool)
    with np.errstate(over="ignore"):  # beyond ±3.4e38 lies ±inf
        if factor != 1.0:
            array = array.astype(np.float64) * factor
        array = np.array(array, dtype=np.float32, copy=True if hidden.any() or not array.flags.writeable else None)
    if hidden.any():
        array[np.broadcast_to(hidden, array.shape)] = np.nan
    return torch.from_numpy(array.copy() if any(stride < 0 for stride in array.strides) else array)


def _bad(value: Array | None, name: str) -> Tensor | None:
    if value is None:
        return None
    array = value if isinstance(value, Tensor) else np.asarray(value)
    if array.dtype not in (torch.bool, np.dtype(bool)):
        raise InputError(
            f"{name} holds {array.dtype}; expected booleans, True where a pixel is bad (from flags: flags & bad != 0)."
        )
    return array if isinstance(array, Tensor) else torch.from_numpy(np.array(array, copy=True))


def _band_names(bands: Sequence[str], count: int) -> tuple[str, ...]:
    if isinstance(bands, str) or not isinstance(bands, Iterable) or not all(isinstance(b, str) for b in bands):
        raise InputError(f"Image.bands is {bands!r}; expected a sequence of {count} band names.")
    names = tuple(bands)
    if len(names) != count:
        raise InputError(f"Image.flux has {count} bands, but Image.bands names {len(names)} ({', '.join(names)}).")
    if twice := [name for name in names if names.count(name) > 1]:
        raise InputError(f"Image.bands names {twice[0]} twice; expected distinct bands.")
    return names


def _per_band(value: float | Sequence[float] | None, count: int) -> tuple[float, ...] | None:
    if value is None:
        return None
    numbers = np.atleast_1d(np.asarray(value, dtype=np.float64))
    if numbers.shape not in ((1,), (count,)) or not np.isfinite(numbers).all():
        raise InputError(f"Image.zero_point is {value}; expected one finite AB magnitude, or {count}, one per band.")
    return tuple(float(v) for v in np.broadcast_to(numbers, count))


def _rank(value: Tensor, name: str, axes: str) -> None:
    if value.ndim != axes.count(",") + 1:
        raise InputError(f"{name} has shape {_dims(value)}; expected [{axes}].")


def _same_shape(reference: Tensor, name: str, **others: Tensor | None) -> None:
    owner = name.partition(".")[0]
    for field, value in others.items():
        if value is not None and value.shape != reference.shape:
            raise InputError(
                f"{owner}.{field} has shape {_dims(value)}; expected {_dims(reference)}, the shape of {name}."
            )
        if value is not None and value.device != reference.device:
            raise InputError(
                f"{owner}.{field} is on {value.device}, {name} on {reference.device}; expected one device."
            )


def _shared(tensor: Tensor) -> bool:
    """Whether all rows are one and the same memory (an expanded grid)."""
    return tensor.ndim > 1 and len(tensor) > 1 and tensor.stride(0) == 0


def _take(tensor: Tensor, index: slice | Tensor) -> Tensor:
    if not _shared(tensor):
        return tensor[index if isinstance(index, slice) else index.to(tensor.device)]
    count = len(torch.empty(len(tensor), 0)[index if isinstance(index, slice) else index.cpu()])
    return tensor[0].expand(count, *tensor.shape[1:])


def _join(parts: list[Tensor]) -> Tensor:
    if all(_shared(p) and torch.equal(p[0], parts[0][0]) for p in parts):
        return parts[0][0].expand(sum(map(len, parts)), *parts[0].shape[1:])
    return torch.cat(parts)


def _move(tensor: Tensor, device: torch.device | str) -> Tensor:
    return tensor[0].to(device).expand(tensor.shape) if _shared(tensor) else tensor.to(device)


def _index_type(rows: Any) -> Any:
    return bool if np.asarray(rows).dtype == bool else np.int64


def _assign(observation: Observation, values: dict[str, Any]) -> None:
    for name, value in values.items():
        object.__setattr__(observation, name, value)


def _dims(tensor: Tensor) -> list[int]:
    return list(tensor.shape)


def _short(value: Any) -> str:
    return f"a tensor {_dims(value)}" if isinstance(value, Tensor) else repr(value)
