"""What the gauge of the largest key remembers, without a job."""

from __future__ import annotations

import random
from functools import cache
from typing import Any

from py4j.java_collections import ListConverter
from pyflink.java_gateway import get_gateway

from tests.flink import compiled

MINUTE = 60_000
NOW = 1_700_000_000_000


@cache
def said() -> Any:
    return compiled.static("LargestAt", "said", [compiled.source("Largest")])


def at(time: int, numbers: list[tuple[int, int]]) -> int:
    """What it says at a time, after numbers at their times."""
    client = get_gateway()._gateway_client
    pairs = [ListConverter().convert(pair, client) for pair in numbers]
    return int(said()(ListConverter().convert(pairs, client), time))


def test_it_is_the_greatest_of_this_minute_and_the_one_before() -> None:
    choose = random.Random(1)
    for _ in range(200):
        times = sorted(NOW + choose.randrange(5 * MINUTE) for _ in range(choose.randrange(8)))
        numbers = [(choose.randrange(17, 1_000), time) for time in times]
        now = max([NOW, *times]) + choose.randrange(4 * MINUTE)
        recent = [n for n, time in numbers if now // MINUTE - time // MINUTE <= 1]
        assert at(now, numbers) == max(recent, default=0), (now, numbers)
