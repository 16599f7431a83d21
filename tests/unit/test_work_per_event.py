"""The work of an event must not grow with what its key has in state (docs/architecture.md).

Work is counted, not timed: the lines of `udfs/core` that are run, and the bytes that are read from
state and written to it. A run with four times as many events may take little more than four times
the work. Work that grew with the state would take sixteen times as much.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from tests.core_runner import CoreRunner
from tests.strategies import preset
from tests.timeline import Action, Event, Key, Label, Request, Rules, Timeline, Watermark
from udfs import core

CORE = str(Path(core.__file__).parent)
START = 1_000_000
MINUTE = 60_000
ITEMS = tuple(f"i{n}" for n in range(5))
FEW, MANY = 150, 600
#: Four times the events, and a half for what is logarithmic.
ALLOWED = 6.0


def hot_user(n: int, *, item: str | None = None, ahead: int = 0, users: int = 1) -> Timeline:
    """A request each 100 ms, an action on each. `ahead`: actions arrive before their requests."""
    timed: list[tuple[int, Event]] = []
    for i in range(n):
        user, time = f"u{i % users}", START + 100 * i
        action = Action(None, user, item or ITEMS[i % 5], None, "click", 1.0, time + 50)
        timed.append((time, Request(f"r{i}", user, time, ITEMS)))
        timed.append((time + 50 - ahead, action))
        timed.append((time + 99, Watermark(time - ahead)))
    timed.sort(key=lambda each: each[0])
    return Timeline(tuple(event for _, event in timed), START + 100 * n)


def unknown_request(n: int) -> Timeline:
    """Actions whose request never comes, then a watermark a step."""
    actions: list[Event] = [
        Action(f"e{i}", "u1", "i1", "r9", "click", 1.0, START + 10 * i) for i in range(n)
    ]
    ends = [Watermark(START + 30 * MINUTE + 10 * i) for i in range(n)]
    return Timeline((*actions, *ends), START + 60 * MINUTE)


def one_request(n: int, *, settled: bool, same: bool = False) -> Timeline:
    """Actions on one request, one a time, or late ones; or copies of one action (`same`)."""
    events: list[Event] = [Request("r1", "u1", START, ITEMS)]
    if settled:
        events.append(Watermark(START + 30 * MINUTE))
    for i in range(n):
        name, item = ("e", "i1") if same else (f"e{i}", ITEMS[i % 5])
        at = START + 10 * (n - i if same else i)
        events.append(Action(name, "u1", item, "r1", "click", 1.0, at))
        if not settled and not same:
            events.append(Watermark(START + 10 * i))
    return Timeline(tuple(events), START + 1000 * MINUTE)


def rules(key: Key, label: Label = "any", window: int = 30 * MINUTE) -> Rules:
    return Rules(key, {"click": window}, {"click": label})


USER, REQUEST = rules("user_id"), rules("request_id")

SHAPES: dict[str, tuple[Callable[[int], Timeline], Rules]] = {
    "hot user": (hot_user, USER),
    "hot user, one item": (lambda n: hot_user(n, item="i1"), USER),
    "hot user, actions first": (lambda n: hot_user(n, ahead=MINUTE), USER),
    "hot user, actions first, on arrival": (
        lambda n: hot_user(n, ahead=MINUTE),
        preset("fake_negative", USER),
    ),
    "hot user that settles on the way": (
        hot_user,
        replace(rules("user_id", window=5_000), horizon=20_000),
    ),
    "hot user, fake_negative": (hot_user, preset("fake_negative", rules("user_id", "sum"))),
    "hot user, defer with skew": (
        lambda n: hot_user(n, item="i1"),
        replace(preset("defer", rules("user_id", "last"), MINUTE), skew=500),
    ),
    "spread over users": (lambda n: hot_user(n, users=n), USER),
    "unknown request": (unknown_request, REQUEST),
    "unknown request of a user": (unknown_request, USER),
    "late actions": (lambda n: one_request(n, settled=True), REQUEST),
    "late actions of a user": (lambda n: one_request(n, settled=True), USER),
    "actions on arrival": (
        lambda n: one_request(n, settled=False),
        preset("fake_negative", rules("request_id", "sum")),
    ),
    "actions on arrival of a user": (
        lambda n: one_request(n, settled=False),
        preset("defer", rules("user_id", "max"), 1),
    ),
    "actions of one request": (lambda n: one_request(n, settled=False), REQUEST),
    "copies of an action": (lambda n: one_request(n, settled=False, same=True), REQUEST),
    "copies of a user's action": (lambda n: one_request(n, settled=False, same=True), USER),
}


def work(timeline: Timeline, under: Rules) -> dict[str, int]:
    """Lines of the core that were run, and bytes of state that were touched."""
    lines = 0

    def in_core(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal lines
        lines += event == "line"
        return in_core

    def calls(frame: FrameType, event: str, _: Any) -> Any:
        return in_core if frame.f_code.co_filename.startswith(CORE) else None

    runner = CoreRunner(under)
    before = sys.gettrace()
    sys.settrace(calls)
    try:
        runner.run(timeline)
    finally:
        sys.settrace(before)
    return {"lines": lines, "bytes": runner.storage.touched}


@pytest.mark.parametrize("name", SHAPES)
def test_work_grows_with_the_events_and_not_with_the_state(name: str) -> None:
    make, under = SHAPES[name]
    few, many = work(make(FEW), under), work(make(MANY), under)
    grown = {what: many[what] / few[what] for what in few}
    assert max(grown.values()) < ALLOWED, (few, many)


def test_a_hot_user_costs_about_what_the_same_requests_of_many_users_cost() -> None:
    hot = work(hot_user(MANY), USER)
    spread = work(hot_user(MANY, users=MANY), USER)
    assert hot["bytes"] < 3 * spread["bytes"], (hot, spread)
    # A request of a user of its own settles by the short way (`udfs/core/alone.py`).
    assert hot["lines"] < 4 * spread["lines"], (hot, spread)


def test_the_counter_sees_work_that_grows() -> None:
    """Without keys in memory, each event reads all of its key again."""
    few, many = CoreRunner(USER, memory=0), CoreRunner(USER, memory=0)
    few.run(hot_user(FEW))
    many.run(hot_user(MANY))
    assert many.storage.touched > 10 * few.storage.touched
