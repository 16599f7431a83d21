"""The simulated world of examples/closed_loop: what it promises to whoever ranks in it."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from statistics import fmean, median

import numpy as np
import pytest

from configuration import declaration
from examples.closed_loop.events import Action, Request
from examples.closed_loop.world import DAY, HOUR, MINUTE, Settings, World

ONE_DAY = Settings(days=1.0, requests_a_day=1500, users=150)
PIPELINE = Path(__file__).parents[2] / "examples/closed_loop/pipeline.toml"

Ranker = Callable[[World, Request], list[str]]


def as_recalled(_: World, request: Request) -> list[str]:
    return [candidate.item_id for candidate in request.candidates]


def best(world: World, request: Request) -> list[str]:
    return world.best(request)


def lived(world: World, rank: Ranker = as_recalled) -> list[Request | Action]:
    events: list[Request | Action] = []
    for event in world.events():
        events.append(event)
        if isinstance(event, Request):
            world.show(event, rank(world, event))
    return events


@pytest.fixture(scope="module")
def day() -> list[Request | Action]:
    return lived(World(7, ONE_DAY))


def test_events_come_in_the_order_of_their_times(day: list[Request | Action]) -> None:
    times = [event.time for event in day]
    assert times == sorted(times)
    requests = {e.request_id: e for e in day if isinstance(e, Request)}
    actions = [e for e in day if isinstance(e, Action)]
    assert len(requests) > 1000
    assert len({a.event_id for a in actions}) == len(actions)
    for action in actions:
        request = requests[action.request_id]
        assert action.time > request.time
        assert action.user_id == request.user_id
        assert action.item_id in [c.item_id for c in request.candidates]


def test_the_same_seed_gives_the_same_world_and_another_seed_another(
    day: list[Request | Action],
) -> None:
    assert lived(World(7, ONE_DAY)) == day
    assert lived(World(8, ONE_DAY)) != day


def test_requests_do_not_depend_on_what_is_shown(day: list[Request | Action]) -> None:
    other = lived(World(7, ONE_DAY), best)
    requests = [[e for e in of if isinstance(e, Request)] for of in (day, other)]
    assert requests[0] == requests[1]


def test_requests_can_be_seen_in_advance(day: list[Request | Action]) -> None:
    world = World(7, ONE_DAY)
    until = ONE_DAY.begin + 2 * HOUR
    ahead = world.upcoming(until)
    assert ahead == [e for e in day if isinstance(e, Request) and e.time < until]
    assert world.upcoming(until) == ahead
    assert lived(world) == day
    assert world.upcoming(until + DAY) == []


def test_a_request_must_be_shown_once_and_with_its_candidates() -> None:
    world = World(3, ONE_DAY)
    events = world.events()
    request = next(events)
    assert isinstance(request, Request)
    items = as_recalled(world, request)
    with pytest.raises(ValueError, match="not one of its candidates"):
        world.show(request, ["i-of-nobody"])
    with pytest.raises(ValueError, match="not one of its candidates"):
        world.show(request, [items[0], items[0]])
    world.show(request, items)
    with pytest.raises(ValueError, match="asked last"):
        world.show(request, items)
    while not isinstance(next(events), Request):
        pass
    with pytest.raises(RuntimeError, match="was not shown"):
        next(events)


def test_the_features_are_those_that_the_pipeline_declares(day: list[Request | Action]) -> None:
    declared = declaration.load(PIPELINE)
    assert {e.kind for e in day if isinstance(e, Action)} == set(declared.actions)
    trained = {
        scope: {f.name for f in declared.schema.scoped(scope) if f.role == "feature"}
        for scope in ("context", "item")
    }
    for event in day:
        if isinstance(event, Request):
            assert set(event.context) == trained["context"]
            assert all(set(c.features) == trained["item"] for c in event.candidates)
    truth = re.compile("quality|appeal|taste|prefer|probab|truth|click|slow", re.IGNORECASE)
    assert not [name for name in declared.features if truth.search(name)]


def test_no_number_of_an_item_tells_how_good_it_is() -> None:
    # a leak would show as a correlation near 1 with what the item is worth to the user
    world = World(5, ONE_DAY)
    numbers: dict[str, list[float]] = defaultdict(list)
    gains: list[float] = []
    for event in world.events():
        if isinstance(event, Request):
            for place, candidate in enumerate(event.candidates):
                gains.append(world.expected_clicks(event, [candidate.item_id]))
                numbers["place"].append(place)
                for name, value in candidate.features.items():
                    if not isinstance(value, str):
                        numbers[name].append(value)
            world.show(event, as_recalled(world, event))
    assert set(numbers) == {"place", "age_hours", "price"}
    for name, values in numbers.items():
        assert abs(np.corrcoef(values, gains)[0, 1]) < 0.3, name


def test_users_look_from_the_top_and_rarely_reach_the_end(day: list[Request | Action]) -> None:
    place = {
        (e.request_id, c.item_id): p
        for e in day
        if isinstance(e, Request)
        for p, c in enumerate(e.candidates)
    }
    seen: dict[str, list[int]] = defaultdict(list)
    views = [0] * ONE_DAY.candidates
    for event in day:
        if isinstance(event, Action) and event.kind == "impression":
            at = place[event.request_id, event.item_id]
            seen[event.request_id].append(at)
            views[at] += 1
        elif isinstance(event, Action) and event.kind == "click":
            assert place[event.request_id, event.item_id] in seen[event.request_id]
    assert all(of == list(range(len(of))) for of in seen.values())
    assert views == sorted(views, reverse=True)
    expected = views[0] * ONE_DAY.look_on ** np.arange(len(views))
    assert views[:8] == pytest.approx(expected[:8], rel=0.2)
    assert views[-1] < 0.05 * views[0]


def test_kinds_of_action_are_late_in_their_own_ways(day: list[Request | Action]) -> None:
    asked = {e.request_id: e.time for e in day if isinstance(e, Request)}
    delays: dict[str, list[int]] = defaultdict(list)
    for event in day:
        if isinstance(event, Action):
            delays[event.kind].append(event.time - asked[event.request_id])
    middle = {kind: median(of) for kind, of in delays.items()}
    assert middle["impression"] < middle["click"] < middle["dwell"] < 5 * MINUTE
    assert middle["click"] < middle["comment"] < middle["purchase"]
    assert middle["purchase"] > HOUR
    # a short window misses many of the clicks, and not the same share of all categories
    assert 0.1 < fmean(d > 30 * MINUTE for d in delays["click"]) < 0.5


def test_the_order_matters_and_the_expectation_is_what_happens() -> None:
    happened, expected = [], []
    for rank in (as_recalled, best):
        world, clicks, sums = World(11, ONE_DAY), 0, 0.0
        requests = 0
        for event in world.events():
            if isinstance(event, Request):
                ranking = rank(world, event)
                sums += world.expected_clicks(event, ranking)
                world.show(event, ranking)
                requests += 1
            else:
                clicks += event.kind == "click"
        happened.append(clicks / requests)
        expected.append(sums / requests)
    # some clicks of the last hours come after the end
    assert happened == pytest.approx(expected, rel=0.12)
    assert expected[1] > 1.9 * expected[0]
    assert World(11, ONE_DAY).expected_views() == pytest.approx(5.45, abs=0.01)


def test_the_new_interest_begins_in_the_middle() -> None:
    world = World(13, ONE_DAY)
    number, segments = world.new_interest
    gains: dict[tuple[bool, bool], list[float]] = defaultdict(list)
    for event in world.events():
        if isinstance(event, Request):
            has_it = event.context["segment"] in {f"s-{s}" for s in segments}
            for candidate in event.candidates:
                if candidate.features["category"] == f"c-{number:02}":
                    gain = world.expected_clicks(event, [candidate.item_id])
                    gains[has_it, event.time >= world.new_interest_at].append(gain)
            world.show(event, as_recalled(world, event))
    mean = {which: fmean(of) for which, of in gains.items()}
    assert mean[True, True] > 3 * mean[True, False]
    assert mean[False, True] < 2 * mean[False, False]
