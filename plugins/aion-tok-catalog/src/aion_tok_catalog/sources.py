"""Sources around objects: by a column that says which object, or by position."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from aion_core.contract import InputError
from aion_core.observations import SourceList
from aion_tok_catalog.mapping import Floats, Rows, SourceColumns, TableColumns

#: Pixels of the crop, and the one at whose centre the object is.
CROP, OBJECT = 96, 48


@dataclass(frozen=True)
class Group:
    """An object, and x, y, e1, e2, radius of the sources around it, ``[n, 5]``, the nearest to it first."""

    name: str
    ra: float
    dec: float
    z: float
    sources: Floats


def shapes(rows: Rows, names: SourceColumns) -> Floats:
    """Return ellipticity components and half-light radius in arcsec, ``[rows, 3]``."""
    units = {names.e1: "", names.e2: "", names.radius: "arcsec"}
    return np.column_stack([rows.numbers(name, unit) for name, unit in units.items()])


def on_crop(ra: Floats, dec: Floats, centre_ra: Floats, centre_dec: Floats, scale: float) -> tuple[Floats, Floats]:
    """Return the pixels of positions (degrees) on crops around others, in the tangent plane, north up and east left."""
    a, d, d0 = np.deg2rad(ra - centre_ra), np.deg2rad(dec), np.deg2rad(centre_dec)
    with np.errstate(divide="ignore", invalid="ignore"):
        cosine = np.sin(d0) * np.sin(d) + np.cos(d0) * np.cos(d) * np.cos(a)
        east = np.cos(d) * np.sin(a) / cosine
        north = (np.cos(d0) * np.sin(d) - np.sin(d0) * np.cos(d) * np.cos(a)) / cosine
    pixel = np.deg2rad(scale / 3600)
    x, y = OBJECT - east / pixel, OBJECT + north / pixel
    return np.where(cosine > 0, x, np.nan), np.where(cosine > 0, y, np.nan)


def inside(sources: Floats) -> Floats:
    """Return those of the sources, ``[n, 5]``, that are whole and on the crop, the nearest to its middle first."""
    x, y = sources[:, 0], sources[:, 1]
    on = np.isfinite(sources).all(1) & (x >= -0.5) & (x < CROP - 0.5) & (y >= -0.5) & (y < CROP - 0.5)
    middle = (CROP - 1) / 2
    return sources[on][np.argsort(np.hypot(x[on] - middle, y[on] - middle), kind="stable")]


def padded(lists: Iterable[Floats]) -> SourceList:
    """Return lists of sources, ``[n, 5]`` each, as one observation."""
    tables = list(lists)
    values = np.full((5, len(tables), max(map(len, tables), default=0)), np.nan, np.float32)
    for i, table in enumerate(tables):
        values[:, i, : len(table)] = table.T
    return SourceList(*values)


def grouped(parts: Iterable[Rows], of: TableColumns) -> Iterator[Group]:
    """Yield the objects of a table whose consecutive rows with one value in a column are the sources of one object."""
    names = of.sources
    assert names is not None
    seen: set[int] = set()  # hashes: a group that comes up again would be two objects of one name
    held: list[tuple[str, float, float, float, Floats]] = []
    for rows in parts:
        keys = rows.texts(names.group)
        ids, ra, dec, z = rows.objects(of)
        if names.x:
            x, y = rows.numbers(names.x, "pix"), rows.numbers(names.y, "pix")
        else:
            places = rows.numbers(names.ra, "deg"), rows.numbers(names.dec, "deg")
            x, y = on_crop(*places, ra, dec, names.pixel_scale)
        table = np.column_stack([x, y, shapes(rows, names)])
        starts = np.flatnonzero(np.r_[True, keys[1:] != keys[:-1]])
        for start, stop in zip(starts, [*starts[1:], len(keys)], strict=True):
            key = str(keys[start])
            if held and held[0][0] == key:
                held[0] = (*held[0][:4], np.concatenate([held[0][4], table[start:stop]]))
                continue
            if held:
                yield _group(held.pop())
            if hash(key) in seen:
                raise InputError(
                    f"{rows.path}: row {rows.first + start + 1}: {names.group} {key} occurs again after others; sort "
                    "the table by that column."
                )
            seen.add(hash(key))
            name = str(ids[start]) if of.object_id else key
            held.append((name, float(ra[start]), float(dec[start]), float(z[start]), table[start:stop]))
    if held:
        yield _group(held.pop())


def _group(found: tuple[str, float, float, float, Floats]) -> Group:
    return Group(*found[:4], sources=inside(found[4]))


def around(ra: Floats, dec: Floats, parts: Callable[[], Iterable[Rows]], names: SourceColumns) -> list[Floats]:
    """Return the sources around some positions, looking through the whole table once.

    Parameters
    ----------
    ra, dec
        Of the objects, in degrees, ``[B]``; NaN has no sources.
    parts
        Gives the rows of the table of sources from the beginning.
    """
    reach = np.sqrt(2) * CROP / 2 * names.pixel_scale / 3600
    order = np.argsort(dec)  # NaN last
    sorted_dec = dec[order]
    found: list[list[Floats]] = [[] for _ in ra]
    for rows in parts():
        a, d = rows.numbers(names.ra, "deg"), rows.numbers(names.dec, "deg")
        known = np.flatnonzero(np.isfinite(a) & np.isfinite(d))
        first = np.searchsorted(sorted_dec, d[known] - reach)
        last = np.searchsorted(sorted_dec, d[known] + reach, side="right")
        counts = last - first
        if not counts.any():
            continue
        source = np.repeat(known, counts)
        within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        centre = order[np.repeat(first, counts) + within]
        x, y = on_crop(a[source], d[source], ra[centre], dec[centre], names.pixel_scale)
        near = np.flatnonzero((np.abs(x - OBJECT) <= CROP) & (np.abs(y - OBJECT) <= CROP))
        table = np.column_stack([x[near], y[near], shapes(rows, names)[source[near]]])
        for i, place in enumerate(centre[near]):
            found[place].append(table[i])
    return [inside(np.array(tables).reshape(-1, 5)) for tables in found]
