"""Observations streamed to training: every object once a lap, in an order that is a function of the seed, exact."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aion_core.contract import AionError, InputError, ReaderSpec
from aion_core.data import ObservationBatch, Reader
from aion_core.data.prefetch import prefetched
from aion_core.data.split import SplitConfig
from aion_core.data.stream import Mixing, ObservationStream
from aion_core.data.survey_files import SurveyFiles
from aion_core.observations import Scalar
from aion_core.plugins import LoadedPlugin, Registry

NOTHING_HELD_OUT = SplitConfig(fraction=0)


class NumberReader(Reader):
    """Numbers in a text file, one object each; even ones have demo_even, too. A word is a damaged row."""

    def claims(self, path: Path) -> bool:
        return True

    def read(self, path: Path, batch_size: int) -> Iterator[ObservationBatch]:
        rows = path.read_text().split()
        for start in range(0, len(rows), batch_size):
            words = rows[start : start + batch_size]
            if any(not word.isdigit() for word in words):
                raise InputError(f"{path}: a row from {start} on is damaged.")
            values = np.array(words, np.float64)
            even = np.flatnonzero(values % 2 == 0)
            # far apart on the sky, except that the last known digit decides whether there is a position at all
            ra = np.where(values % 10 == 9, np.nan, (values * 37) % 360)
            data = {"demo_x": (Scalar(values), np.arange(len(values)))}
            if len(even):
                data["demo_even"] = (Scalar(values[even]), even)
            yield ObservationBatch(np.array(words), ra, np.where(np.isnan(ra), np.nan, (values * 7) % 120 - 60), data)


@pytest.fixture
def files(tmp_path: Path) -> Callable[..., SurveyFiles]:
    """``files("name", [10, 5])``: a folder with files of 10 and 5 numbers, no number twice."""
    sys.modules.setdefault("readers_of_test_stream", sys.modules[__name__])
    reader = ReaderSpec(
        name="numbers", title="numbers", patterns=("*.num",), reader="readers_of_test_stream:NumberReader",
        modalities=("demo_x", "demo_even"),
    )  # fmt: skip
    plugin = LoadedPlugin("demo", "aion-tok-demo", "1.2", 0.0, (), (reader,))
    registry = Registry(MappingProxyType({}), (reader,), (), (plugin,), ())

    def make(name: str, sizes: list[int], keys: tuple[str, ...] = ("demo_x",), first: int = 0) -> SurveyFiles:
        folder = tmp_path / name
        folder.mkdir()
        for i, size in enumerate(sizes):
            (folder / f"{i}.num").write_text(" ".join(map(str, range(first, first + size))))
            first += size
        return SurveyFiles([folder], registry, keys)

    return make


def numbers(batch: Any, key: str = "demo_x") -> list[int]:
    return [int(v) for k, obs in batch.observations if k == key for v in obs.value]


def drawn(stream: ObservationStream, count: int, position: Any = None) -> list[tuple[list[int], Any]]:
    batches = stream.batches(position)
    found = [(numbers(batch), position) for batch, position in islice(batches, count)]
    batches.close()
    return found


def make_stream(*sources: SurveyFiles, batch: int = 8, **options: Any) -> ObservationStream:
    options = {"split": NOTHING_HELD_OUT, "mixing": Mixing(0, 2, 16), "prefetch": 0} | options
    return ObservationStream(list(sources), batch, **options)


def test_a_lap_visits_every_object_once_and_the_next_in_another_order(files) -> None:
    stream = make_stream(files("one", [13, 30, 5]), batch=12)
    batches = drawn(stream, 8)
    laps = [[n for numbers, _ in part for n in numbers] for part in (batches[:4], batches[4:])]
    assert sorted(laps[0]) == sorted(laps[1]) == list(range(48))
    assert laps[0] != laps[1]
    assert laps[0] != sorted(laps[0])
    assert drawn(stream, 1)[0][1]["0"]["epoch"] == 0
    assert drawn(stream, 5)[-1][1]["0"]["epoch"] == 1


def test_a_batch_holds_objects_of_several_files_and_a_window_more_than_a_batch(files) -> None:
    stream = make_stream(files("one", [100] * 6), batch=16, mixing=Mixing(0, 4, 64))
    of_files = [len({n // 100 for n in numbers}) for numbers, _ in drawn(stream, 10)]
    assert min(of_files) >= 3
    spans = [max(n % 100 for n in numbers) - min(n % 100 for n in numbers) for numbers, _ in drawn(stream, 10)]
    assert np.median(spans) > 10


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    sizes=st.lists(st.integers(1, 30), min_size=1, max_size=6),
    interleave=st.integers(1, 4), window=st.integers(1, 40), before=st.integers(0, 30), lanes=st.sampled_from([1, 2]),
)  # fmt: skip
def test_from_any_position_on_the_stream_is_the_same(tmp_path_factory, files, sizes, interleave, window, before, lanes):
    source = files(tmp_path_factory.mktemp("x").name, [2 * n for n in sizes])
    stream = make_stream(source, batch=4, mixing=Mixing(3, interleave, window), lanes=lanes)
    whole = drawn(stream, before + 12)
    position = json.loads(json.dumps(whole[before - 1][1])) if before else None
    assert drawn(stream, 12, position) == whole[before:]


def test_it_resumes_where_a_window_was_half_drawn(files) -> None:
    stream = make_stream(files("one", [40, 40]), batch=3, mixing=Mixing(0, 2, 16))
    whole = drawn(stream, 60)
    for at in (1, 2, 5, 6, 26, 27, 40):
        assert drawn(stream, 20, whole[at - 1][1]) == whole[at : at + 20]


def test_sources_are_mixed_by_ratio_at_any_moment_and_restart_until_all_are_exhausted(files) -> None:
    small, middle, large = files("s", [10]), files("m", [40], first=1000), files("l", [30, 30], first=2000)
    stream = make_stream(small, middle, large, batch=4, ratio=[1, 2, 1], mixing=Mixing(0, 2, 8))
    values: list[int] = []
    for batch, position in drawn(stream, 62):
        values += batch
        counts = np.bincount(np.array(values) // 1000, minlength=3)
        assert np.abs(counts - len(values) * np.array([0.25, 0.5, 0.25])).max() <= 1
        if position["0"]["epoch"]:
            break
    else:
        pytest.fail("the epoch never ended")
    # the large one has 60 at a quarter of the samples: 240 in all, and the small one went round six times meanwhile
    assert 240 <= len(values) <= 244
    times = Counter(values[:240])
    assert {times[n] for n in range(2000, 2060)} == {1}
    assert {times[n] for n in range(10)} == {6}
    assert {times[n] for n in range(1000, 1040)} == {3}


@pytest.mark.parametrize("sizes", [[24] * 6, [96]])
def test_processes_share_the_objects_and_together_see_the_batches_of_one(files, sizes) -> None:
    source = files("one", sizes)
    alone = make_stream(source, batch=8, lanes=2)
    parts = [make_stream(source, batch=8, lanes=2, world_size=2, rank=rank) for rank in (0, 1)]
    for whole, *shares in zip(drawn(alone, 18), *(drawn(part, 18) for part in parts), strict=True):
        assert sorted(whole[0]) == sorted(n for share in shares for n in share[0])
        assert [len(share[0]) for share in shares] == [4, 4]
        assert whole[1] == {**shares[0][1], **shares[1][1]}
    seen = [{n for numbers, _ in drawn(part, sum(sizes) // 8) for n in numbers} for part in parts]
    assert not seen[0] & seen[1]
    assert len(seen[0] | seen[1]) == sum(sizes)


def test_a_position_of_all_processes_continues_each_of_them(files) -> None:
    source = files("one", [24] * 6)
    parts = [make_stream(source, batch=8, world_size=2, rank=rank) for rank in (0, 1)]
    wholes = [drawn(part, 20) for part in parts]
    together = {**wholes[0][6][1], **wholes[1][6][1]}
    for part, whole in zip(parts, wholes, strict=True):
        assert drawn(part, 5, together) == whole[7:12]
    alone = make_stream(source, batch=8, lanes=2)
    merged = [sorted(a + b) for (a, _), (b, _) in zip(*(w[7:12] for w in wholes), strict=True)]
    assert [sorted(n) for n, _ in drawn(alone, 5, together)] == merged


def test_held_out_objects_are_never_drawn_and_are_the_same_for_all(files) -> None:
    source = files("one", [100, 100])
    split = SplitConfig(fraction=0.3, order=8)
    stream = make_stream(source, batch=10, split=split)
    held_out = {int(v) for _, obs in stream.held_out(1000) for v in obs.value}
    values = {n for numbers, _ in drawn(stream, 40) for n in numbers}
    assert not values & held_out
    assert values | held_out == set(range(200))
    assert 30 < len(held_out) < 90
    assert {n for n in held_out if n % 10 == 9}, "without a position, the identifier decides"
    again = make_stream(source, batch=10, split=split, world_size=2, rank=1, mixing=Mixing(0, 1, 7))
    assert {int(v) for _, obs in again.held_out(1000) for v in obs.value} == held_out
    assert sum(len(obs) for _, obs in stream.held_out(20)) == 20


def test_each_modality_is_an_observation_of_its_own(files) -> None:
    stream = make_stream(files("one", [50], keys=("demo_x", "demo_even")), batch=15)
    batches = stream.batches()
    found = [next(batches)[0] for _ in range(5)]
    assert sorted(n for b in found for n in numbers(b)) == list(range(50))
    assert sorted(n for b in found for n in numbers(b, "demo_even")) == list(range(0, 50, 2))
    assert {len(batch) for batch in found} == {15}
    assert all(len(batch.names) == 15 for batch in found)
    first = found[0]
    named = [name.split(": ")[1] for name in first.names]
    assert [float(n) for n in named] == [float(v) for _, obs in first.observations for v in obs.value]


def test_what_was_read_before_the_damage_counts_and_the_damage_is_told(files, tmp_path) -> None:
    source = files("one", [20, 20])
    (tmp_path / "one" / "1.num").write_text(" ".join(map(str, range(20, 36))) + " oops")
    stream = make_stream(source, batch=4, mixing=Mixing(0, 2, 16))
    values = [n for numbers, _ in drawn(stream, 9) for n in numbers]
    assert sorted(values) == list(range(36))
    assert list(source.damaged) == [str(tmp_path / "one" / "1.num")]


def test_where_there_is_nothing_to_draw_it_says_so(files) -> None:
    with pytest.raises(AionError, match="no object to train on with demo_y among 1 files"):
        drawn(make_stream(files("one", [10], keys=("demo_y",))), 1)
    with pytest.raises(AionError, match="no object to train on"):
        drawn(make_stream(files("two", [10]), split=SplitConfig(fraction=1)), 1)
    three = files("three", [9, 9])
    three.files[0][0].write_text("  ")
    with pytest.raises(AionError, match=r"demo_x in the part of process or lane [01] of 2"):
        drawn(make_stream(three, lanes=2), 1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch": 9, "world_size": 2}, "9 cannot be drawn evenly from 2 lanes by 2 processes"),
        ({"batch": 8, "lanes": 3}, "8 cannot be drawn evenly from 3 lanes"),
        ({"batch": 9, "lanes": 3, "world_size": 2}, "a data.lanes that the processes divide"),
        ({"ratio": [1.0, 2.0]}, "1 sources need as many ratios"),
        ({"ratio": [0.0]}, "ratios above 0"),
    ],
)
def test_numbers_that_do_not_fit_are_refused(files, options, message) -> None:
    with pytest.raises(AionError, match=message):
        make_stream(files("one", [10]), **options)


def test_another_number_of_lanes_cannot_continue_a_position(files) -> None:
    source = files("one", [20] * 4)
    position = drawn(make_stream(source, lanes=2), 3)[-1][1]
    with pytest.raises(AionError, match=r"2 lanes; set data\.lanes to that"):
        drawn(make_stream(source, lanes=4), 1, position)


class TestPrefetching:
    def test_it_changes_nothing(self, files) -> None:
        source = files("one", [13, 30, 5])
        assert drawn(make_stream(source, prefetch=3), 20) == drawn(make_stream(source), 20)

    def test_what_the_thread_meets_is_raised_where_it_belongs(self) -> None:
        def items() -> Iterator[int]:
            yield 1
            raise InputError("the file is damaged")

        found = prefetched(items(), 2)
        assert next(found) == 1
        with pytest.raises(InputError, match="damaged"):
            next(found)

    def test_closing_ends_the_thread(self) -> None:
        import threading

        found = prefetched(iter(range(1000)), 2)
        next(found)
        assert any(t.name == "prefetch" for t in threading.enumerate())
        found.close()
        assert not any(t.name == "prefetch" for t in threading.enumerate())

    def test_an_end_is_an_end(self) -> None:
        assert list(prefetched(iter(range(5)), 2)) == [0, 1, 2, 3, 4]
