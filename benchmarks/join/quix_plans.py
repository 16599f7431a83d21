"""The two plans in Quix Streams that the join is measured against.

Quix Streams has no timers, and its LEFT joins write a row without an action as soon as the request
is there. But it reads its topics in the order of the records' timestamps. So in both plans each
request is sent through a topic once more, with the time at which its window is over. When it comes
from there, all of its actions have been read.

``join``
    its own join: requests are exploded to impressions, and `join_asof` looks up the latest action
    on each. State holds an entry for each action.
``state``
    the best plan that we know: a stateful function over both topics by request. Actions are
    collected in the state of their request. When the request comes, it takes them, and all its rows
    are made at once.

In both, state holds no requests: they wait in Kafka. Neither plan validates records, removes
duplicates, or tells late from absent actions. In ``state``, an action that comes after its request
stays in state for ever; in ``join``, all actions do. Of several actions on an impression, ``join``
takes the latest, and loses it if it is outside the window.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Literal

from quixstreams import Application, State
from quixstreams.dataframe import StreamingDataFrame

from benchmarks.join.data import feature_names
from benchmarks.join.spec import DISORDER_MS, Spec

QuixPlan = Literal["state", "join"]
#: The samples of some impressions; the columns are `run_quix.schema`'s.
Rows = list[tuple[Any, ...]]


def rows_of(plan: QuixPlan, spec: Spec, app: Application, due_topic: str) -> StreamingDataFrame:
    """The pipeline of `app`, up to values that are `Rows`.

    Args:
        plan: see the module.
        spec: names the topics of the input.
        app: reads them.
        due_topic: an empty topic, for the requests whose windows are over.
    """
    wait = spec.window_ms + DISORDER_MS
    # as bytes: the requests are not looked at on their first way
    features = app.topic(f"{spec.topics}-features", value_deserializer="bytes")
    due = app.topic(due_topic, value_serializer="bytes", value_deserializer="json")
    actions = app.topic(f"{spec.topics}-actions", value_deserializer="json")
    app.dataframe(features).set_timestamp(
        lambda _value, _key, timestamp, _headers: timestamp + wait
    ).to_topic(due)
    requests = app.dataframe(due)
    clicks = app.dataframe(actions).filter(lambda action: action["action"] == "click")
    return (_state if plan == "state" else _join)(spec, requests, clicks)


def _state(
    spec: Spec, requests: StreamingDataFrame, clicks: StreamingDataFrame
) -> StreamingDataFrame:
    names = _names(spec)

    def step(value: dict[str, Any], state: State) -> Rows | None:
        held: list[tuple[str, int]] = state.get("clicks", [])
        if "items" not in value:
            state.set("clicks", [*held, (value["item_id"], value["event_time"])])
            return None
        if held:
            state.delete("clicks")
        time = value["event_time"]
        first: dict[str, int] = {}
        for item_id, at in held:
            if time <= at <= time + spec.window_ms:
                first[item_id] = min(at, first.get(item_id, at))
        rows = []
        for position, item in enumerate(value["items"]):
            # of two positions with one item, the first has its actions
            clicked_at = first.pop(item["item_id"], None)
            rows.append(_row(value["request_id"], time, position, item, names, clicked_at))
        return rows

    both = requests.concat(clicks).group_by("request_id")
    return both.apply(step, stateful=True).filter(lambda rows: rows is not None)


def _join(
    spec: Spec, requests: StreamingDataFrame, clicks: StreamingDataFrame
) -> StreamingDataFrame:
    names = _names(spec)

    def impressions(request: dict[str, Any]) -> Iterator[dict[str, Any]]:
        for position, item in enumerate(request["items"]):
            yield {
                "request_id": request["request_id"],
                "event_time": request["event_time"],
                "position": position,
                **item,
            }

    def row(impression: dict[str, Any], click: dict[str, Any] | None) -> Rows:
        time = impression["event_time"]
        at = click["event_time"] if click else None
        if at is not None and not time <= at <= time + spec.window_ms:
            at = None
        id_, position = impression["request_id"], impression["position"]
        return [_row(id_, time, position, impression, names, at)]

    def key(value: dict[str, Any]) -> str:
        return f"{value['request_id']}/{value['item_id']}"

    left = requests.apply(impressions, expand=True).group_by(key, "impression")
    right = clicks.group_by(key, "impression")
    return left.join_asof(
        right, how="left", on_merge=row, grace_ms=spec.window_ms + 2 * DISORDER_MS
    )


def _names(spec: Spec) -> list[str]:
    doubles, strings = feature_names(spec.features)
    return doubles + strings


def _row(
    request_id: str,
    time: int,
    position: int,
    item: dict[str, Any],
    names: Iterable[str],
    clicked_at: int | None,
) -> tuple[Any, ...]:
    features = item["features"]
    label = (0, None) if clicked_at is None else (1, clicked_at - time)
    return (
        *(request_id, item["item_id"], position, time),
        *(features.get(name) for name in names),
        *label,
    )
