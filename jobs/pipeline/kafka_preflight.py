"""What a look at the topics tells before a job reads them: whether offsets are committed, whether
the timestamps of records are those of the events, and whether two sources read one topic.

The watermark of Kafka follows record timestamps. A record whose event is much older than its
timestamp comes when its time is over: a request is rejected (`late_request`), and an action finds
its request settled without it. Producers that set no timestamp cause this when old events are
produced again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from jobs.pipeline.config import ConfigError, KafkaSource, Pipeline
from jobs.pipeline.kafka_consumer import cluster_of, connect, partitions, refused
from jobs.pipeline.record_times import TimeOf, times_of, transcoded
from jobs.pipeline.source_checks import read_twice
from schemas.events import stream_of
from schemas.formats.framing import Framed

#: How many partitions are looked at, and how many records at each end of one.
_PARTITIONS, _RECORDS = 4, 25
_WAIT_MS = 2_000
#: How long a fetch waits in vain; a broker that refuses it does so at once.
_NOTHING_MS = 500
#: With fewer records than this there is nothing to judge by.
_ENOUGH = 10


class Sampled(NamedTuple):
    """A record of the sample. Times are epoch ms; `appended`: the broker made the timestamp."""

    record_time: int
    event_time: int
    appended: bool


class Topic(NamedTuple):
    """A topic, and the Kafka cluster that it is in: its id; its addresses where it tells none."""

    cluster: str
    name: str


def check(
    key: str, source: KafkaSource, pipeline: Pipeline, *, judge_times: bool = True
) -> list[Topic]:
    """The topics that the source reads as of now, by name.

    `key`: that of the source. `pipeline`: as it is seen from the source. `judge_times`: whether
    record timestamps have to fit the events, as the join needs it.

    Raises ConfigError when the job could not read the topics, or hardly use what it reads.
    """
    group = {} if source.group_id is None else {"group_id": source.group_id}
    consumer = connect(key, source, enable_auto_commit=False, **group)
    from kafka.errors import KafkaError

    try:
        found = partitions(source, consumer)
        cluster = cluster_of(source, consumer)
        if source.group_id is not None and found:
            consumer.committed(found[0])  # the right to do so
        if source.start == "committed":
            _check_committed(key, source, consumer, found)
        time_of = times_of(pipeline.mappings)[stream_of(key)]
        if source.format is not None:
            time_of = transcoded(source.format, time_of)
        sample = list(_sample(source, consumer, found, time_of))
        one_of_each = list({partition.topic: partition for partition in found}.values())
        if not sample or len(one_of_each) > 1:
            _fetch(consumer, one_of_each)
    except KafkaError as error:
        raise refused(key, source, error) from None
    finally:
        consumer.close()
    wrong = judge(sample, key, source, pipeline) if judge_times else None
    if wrong is not None:
        raise ConfigError(f"sources.{key}: {wrong}")
    return [Topic(cluster, partition.topic) for partition in one_of_each]


def check_apart(topics: Mapping[str, Sequence[Topic]]) -> None:
    """Raises ConfigError when two sources of a stream read one topic. Of those that are named in
    the file it is known before (`source_checks`); here it is of what patterns match, and of one
    cluster under two addresses.

    `topics`: those that `check` found, by the key of their source.
    """
    taken: dict[tuple[str, Topic], str] = {}
    for key, found in topics.items():
        for topic in found:
            other = taken.setdefault((stream_of(key), topic), key)
            if other != key:
                raise ConfigError(f"sources.{key}: the topic {read_twice(topic.name, other)}")


def judge(sample: list[Sampled], key: str, source: KafkaSource, pipeline: Pipeline) -> str | None:
    """What is wrong with the timestamps of a sample, and what to do; None when nothing is.

    More than `runtime.max_late_requests` of the records must be bad, and ten at least sampled.
    """
    if len(sample) < _ENOUGH:
        return None
    bound = too_old_after(key, source, pipeline)
    behind = [r.record_time - r.event_time for r in sample]
    old = sorted(age for age in behind if age > bound)
    ahead = sorted(-age for age in behind if -age > source.max_future)
    tolerated = pipeline.runtime.max_late_requests * len(sample)
    of = f"of {len(sample)} sampled records of {_named(source)}"
    if ahead and len(ahead) > tolerated:
        return (
            f"{len(ahead)} {of} have an event_time that is ahead of the record's timestamp (median "
            f"{_words(ahead[len(ahead) // 2])}), so they would be rejected as "
            "future_clock; let the producer set the timestamp to the event_time, or raise "
            "max_future"
        )
    if not old or len(old) <= tolerated:
        return None
    outcome = "requests would be rejected (late_request)"
    if stream_of(key) == "actions":
        outcome = "actions would come when their requests have settled, and the labels say 0"
    cure = "let the producer set each record's timestamp to its event_time"
    if any(record.appended for record in sample):
        cure = (
            "the broker makes the timestamps here: set message.timestamp.type=CreateTime on the "
            "topic, and produce the events again with their event_time as the timestamp"
        )
    return (
        f"{len(old)} {of} have an event_time too far behind the record's timestamp (median "
        f"{_words(old[len(old) // 2])}; at most {_words(bound)} can be joined). Time follows the "
        f"timestamps of the records, so these {outcome}. {cure[:1].upper()}{cure[1:]}, or read the "
        "events from files; with runtime.max_late_requests = 1 the job runs all the same"
    )


def too_old_after(key: str, source: KafkaSource, pipeline: Pipeline) -> int:
    """How much older (ms) than its record an event may be before its own record's watermark has
    passed the last moment at which it could be joined (docs/join-semantics.md 3 and 4).
    """
    rules = pipeline.rules
    skews = 2 if stream_of(key) == "actions" else 1
    longest = max(kind.window_ms for kind in rules.kinds)
    return longest + skews * rules.skew + rules.lateness + int(source.out_of_orderness)


def _check_committed(key: str, source: KafkaSource, consumer: Any, partitions: list[Any]) -> None:
    """Without `auto.offset.reset` each partition needs a committed offset, or the job fails."""
    if source.properties.get("auto.offset.reset", "none") != "none":
        return
    missing = [f"{p.topic}[{p.partition}]" for p in partitions if consumer.committed(p) is None]
    if missing:
        raise ConfigError(
            f"sources.{key}.start: the group {source.group_id!r} has committed no offset in "
            f"{', '.join(missing)}; correct group_id, or say where to "
            'begin then: properties."auto.offset.reset" = "earliest" or "latest"'
        )


def _sample(
    source: KafkaSource, consumer: Any, partitions: list[Any], time_of: TimeOf
) -> Iterator[Sampled]:
    """Records at both ends of what will be read, of some partitions spread over all."""
    step = max(1, -(-len(partitions) // _PARTITIONS))
    chosen = partitions[::step]
    if not chosen or source.start == "latest":
        return
    first, last = consumer.beginning_offsets(chosen), consumer.end_offsets(chosen)
    if isinstance(source.start, int):
        found = consumer.offsets_for_times(dict.fromkeys(chosen, source.start))
        first = {p: last[p] if found[p] is None else found[p].offset for p in chosen}
    for partition in chosen:
        begin = first[partition]
        if source.start == "committed":
            begin = max(begin, consumer.committed(partition) or 0)
        for at in sorted({begin, max(begin, last[partition] - _RECORDS)}):
            yield from _records(
                consumer, partition, at, min(at + _RECORDS, last[partition]), time_of
            )


def _fetch(consumer: Any, partitions: list[Any]) -> None:
    """Raises KafkaError when one of the partitions may not be read."""
    if not partitions:
        return
    consumer.assign(partitions)
    consumer.seek_to_end(*partitions)
    consumer.poll(timeout_ms=_NOTHING_MS, max_records=1)


def _records(
    consumer: Any, partition: Any, begin: int, end: int, time_of: TimeOf
) -> Iterator[Sampled]:
    if begin >= end:
        return
    consumer.assign([partition])
    consumer.seek(partition, begin)
    fetched = consumer.poll(timeout_ms=_WAIT_MS, max_records=_RECORDS).get(partition, ())
    for record in fetched:
        if record.value is None:
            continue
        event_time = time_of(Framed.among(record.value, record.headers))
        if record.offset < end and event_time is not None:
            yield Sampled(record.timestamp, event_time, record.timestamp_type == 1)


def _named(source: KafkaSource) -> str:
    if source.topic_pattern is not None:
        return f"topics like {source.topic_pattern!r}"
    names = ", ".join(map(repr, source.topics))
    return f"{'topic' if len(source.topics) == 1 else 'topics'} {names}"


def _words(ms: int) -> str:
    """A duration in its greatest unit, rounded down: "3 days", "20 s"."""
    for unit, size in (("days", 86_400_000), ("h", 3_600_000), ("min", 60_000), ("s", 1_000)):
        if ms >= 2 * size:
            return f"{ms // size} {unit}"
    return f"{ms} ms"
