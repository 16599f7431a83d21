"""The formula in docs/operations.md, "Sizing", against the bytes that the job stores."""

from __future__ import annotations

import random
from itertools import product

import msgspec
import pytest

from schemas.decoding import RequestDecoder
from schemas.events import ActionEvent, Origin, RequestEvent
from schemas.features import Feature, FeatureSchema, FeatureType
from udfs.core.state_codec import VERSION, StoredRequest, pack_entry, pack_request

TIME = 1_700_000_000_000
ID_BYTES, NAME_BYTES = 8, 9


def _stored(items: int, numbers: int, strings: int, length: int) -> StoredRequest:
    """A request as the join keeps it, decoded from JSON."""
    drawn = random.Random(items)
    types = ["float64"] * numbers + ["string"] * strings
    schema = FeatureSchema.of(
        Feature(f"feature{n:02}"[:NAME_BYTES], FeatureType.parse(type_))
        for n, type_ in enumerate(types)
    )
    record = {
        "request_id": "r" * ID_BYTES,
        "user_id": "u" * ID_BYTES,
        "event_time": TIME,
        "items": [
            {
                "item_id": f"i{n:07}",
                "features": {
                    f.name: drawn.random() if f.type.scalar == "float64" else "x" * length
                    for f in schema.features
                },
            }
            for n in range(items)
        ],
    }
    raw = msgspec.json.encode(record)
    decoder = RequestDecoder(schema, max_record_bytes=1 << 24)
    event = decoder.decode(raw, Origin("topic", 0, 0))
    assert isinstance(event, RequestEvent)
    times = (TIME, TIME + 3_600_000, TIME + 10_800_000)
    return StoredRequest(VERSION, event.request_id, *times, [], settled=False, body=event.body)


def _bytes(request: StoredRequest) -> int:
    """With the key group, the key and the key of the map, under which Flink stores it."""
    return len(pack_request(request)) + 2 + 2 * (2 + ID_BYTES)


@pytest.mark.parametrize(
    ("items", "features"),
    list(product((1, 20, 200), ((4, 4, 8), (0, 1, 160), (40, 0, 0), (0, 0, 0)))),
)
@pytest.mark.parametrize("joined", [0, 20])
@pytest.mark.parametrize("keep_features", [False, True])
def test_a_pending_request_and_a_tombstone_take_what_the_page_says(
    items: int, features: tuple[int, int, int], joined: int, keep_features: bool
) -> None:
    numbers, strings, length = features
    request = _stored(items, numbers, strings, length)
    values = 9 * numbers + strings * (length + (1 if length < 32 else 2))
    pending = 80 + (numbers + strings) * (NAME_BYTES + 2) + items * (ID_BYTES + 1 + values)
    assert _bytes(request) == pytest.approx(pending, rel=0.03, abs=10)

    request.items = [f"i{n:07}" for n in range(items)]
    request.user_id = "u" * ID_BYTES
    # identities are hashes of 64 bits
    used = [2**63 + n for n in range(joined)]
    request.settle(used, keep_features=keep_features)
    tombstone = 80 + items * (ID_BYTES + 1) + 9 * joined
    if keep_features:
        tombstone += pending - 65
    assert _bytes(request) == pytest.approx(tombstone, rel=0.03, abs=10)


@pytest.mark.parametrize("id_bytes", [8, 36])
@pytest.mark.parametrize("more", [0, 300])
def test_a_held_action_takes_what_the_page_says(id_bytes: int, more: int) -> None:
    names = ("event_id", "user_id", "item_id", "request_id")
    event_id, user_id, item_id, request_id = (name[0] * id_bytes for name in names)
    record = dict(zip(names, (event_id, user_id, item_id, request_id), strict=True))
    raw = msgspec.json.encode(record | {"action": "click", "event_time": TIME, "other": "x" * more})
    origin = Origin("actions", 3, 10**9)
    action = ActionEvent(event_id, user_id, item_id, request_id, "click", 1.5, TIME, origin, raw)
    # with the length that Flink writes before an element of a list
    found = len(pack_entry(action)) + 4
    assert found == pytest.approx(len(raw) + 4 * id_bytes + 60, abs=10)


def test_the_example_of_the_page() -> None:
    """Four numbers and four strings of 8 bytes: P = 1.8 KB."""
    assert _bytes(_stored(20, 4, 4, 8)) == pytest.approx(1_800, rel=0.03)
