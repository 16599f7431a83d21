"""docs/events.md: its examples are decoded, and its tables agree with the code."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import tomli

from schemas.actions import ActionKind
from schemas.decoding import MAX_ID_LENGTH, ActionDecoder, BadRecord, RequestDecoder
from schemas.events import EARLIEST_TIME, LATEST_TIME, Origin
from schemas.features import FLOAT32_MAX, Feature, FeatureSchema, FeatureType
from schemas.json_text import MAX_DEPTH
from udfs.core import decode_batches, join_batches
from udfs.core.matching import JoinRules

PAGE = (Path(__file__).parents[2] / "docs" / "events.md").read_text()
HERE = Origin("page", None, 0)


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)


def decoder_of(raw: bytes) -> RequestDecoder | ActionDecoder:
    """For the stream that a record of the page belongs to, as the page's configuration says."""
    (text,) = blocks("toml")
    config = tomli.loads(text)
    if b'"action"' in raw:
        kinds = [ActionKind(k, 1, s.get("label", "any")) for k, s in config["actions"].items()]
        return ActionDecoder(kinds, key_is_request_id=True, max_record_bytes=1_000)
    features = [
        Feature(
            name,
            FeatureType.parse(spec["type"]),
            scope=spec.get("scope", "item"),
            required=spec.get("required", True),
        )
        for name, spec in config["features"].items()
    ]
    return RequestDecoder(FeatureSchema.of(features), max_record_bytes=1_000)


@pytest.mark.parametrize("text", blocks("json"))
def test_the_examples_are_good_records(text: str) -> None:
    raw = json.dumps(json.loads(text)).encode()
    assert decoder_of(raw).decode(raw, HERE).event_time == json.loads(text)["event_time"]
    # as it stands on the page it is the same record
    raw = text.encode()
    assert decoder_of(raw).decode(raw, HERE).raw == raw  # type: ignore[union-attr]


def test_every_reason_of_the_page_is_a_counter_from_the_beginning() -> None:
    table = re.findall(
        r"^\|[ \d]+\| `(\w+)` +\| (?:\((actions|feature events)\))?", PAGE, re.MULTILINE
    )
    of_actions = {reason for reason, of in table if of == "actions"}
    of_features = {"empty_items"} | {reason for reason, of in table if of == "feature events"}
    of_both = {reason for reason, of in table if not of} - {"empty_items"}
    (text,) = re.findall(r"itself rejects good records as well: (.*?) \(join", PAGE, re.DOTALL)
    of_join = re.findall(r"`(\w+)`", text)
    assert {*decode_batches.REASONS["features"]} == of_both | of_features
    assert {*decode_batches.REASONS["actions"]} == of_both | of_actions
    declared = join_batches.counters(JoinRules("user_id", (ActionKind("click", 1, "any"),)))
    assert {name.split("/")[-1] for name in declared if name.startswith("rejected/")} == {*of_join}


REJECTED = [line.split(maxsplit=1) for line in blocks("text")[0].splitlines()]


@pytest.mark.parametrize(("reason", "text"), REJECTED)
def test_the_bad_examples_are_rejected_for_the_reason_they_stand_for(
    reason: str, text: str
) -> None:
    raw = text.encode()
    with pytest.raises(BadRecord) as raised:
        decoder_of(raw).decode(raw, HERE)
    assert raised.value.reason == reason


def test_the_bounds_of_the_page_are_those_of_the_code() -> None:
    assert len(blocks("json")) == 3
    for bound in (f"{MAX_ID_LENGTH:,}", str(MAX_DEPTH), str(EARLIEST_TIME), str(LATEST_TIME)):
        assert bound in PAGE
    assert repr(FLOAT32_MAX).replace("+", "") in PAGE


def test_every_reason_of_the_decoder_stands_on_both_pages() -> None:
    sources = Path(__file__).parents[2] / "schemas"
    code = (sources / "decoding.py").read_text() + (sources / "json_text.py").read_text()
    reasons = set(re.findall(r'(?:BadRecord|NotJSON)\(\s*"(\w+)"', code))
    reasons |= set(re.findall(r'": "(\w+)",$', code, re.MULTILINE)) | {"wrong_type"}
    assert len(reasons) >= 15
    formats = (Path(__file__).parents[2] / "docs" / "sample-format.md").read_text()
    for reason in reasons:
        assert f"`{reason}`" in PAGE
        assert f"`{reason}`" in formats
