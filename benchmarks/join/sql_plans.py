"""The two plans in Flink SQL that the join is measured against. Nothing of pyflink here.

``interval``
    the textbook plan: explode requests to impressions, LEFT interval join with the actions. State
    holds every impression as a row of its own. A row with an action comes out as soon as the
    action is there, one without when the join cleans up: after one window, as measured here
    (`delay.py`), and after one and a half with `table.exec.interval-join.min-cleanup-interval` at
    half a window, which is what older releases of Flink did.
``over``
    the best plan that we know: requests (shifted by the window) and actions in one stream by
    request, an OVER window of one window's length gathers the actions as text, and only then the
    request is exploded. State holds requests, and rows come out after exactly one window.

In both, an action counts for an impression if it is between the request's time and one window
later, both ends included. Neither plan validates records, tells late from absent actions, keeps
what could not be used, or removes duplicates.
"""

from __future__ import annotations

import re

import pyarrow as pa

from benchmarks.join.data import feature_names, number_folder
from benchmarks.join.spec import DISORDER_MS, ITEMS, PAYLOAD_BYTES, START_MS, Spec
from schemas import sql
from schemas.actions import ActionKind
from schemas.features import Feature, FeatureSchema, FeatureType
from schemas.samples import samples, sql_columns


def statements(spec: Spec) -> list[str]:
    """The DDL, and last the INSERT, of this run."""
    if spec.part == "whole":
        tables, select = _whole_tables(spec), _whole_select(spec)
    else:
        tables, select = _alone_tables(spec), _alone_select(spec)
    return [*tables, f"INSERT INTO samples {select}"]


def _interval(milliseconds: int) -> str:
    """An interval of whole seconds; Flink's SECOND alone has three digits at the most."""
    minutes, seconds = divmod(milliseconds // 1_000, 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    return f"INTERVAL '{days} {hours:02}:{minutes:02}:{seconds:02}' DAY TO SECOND"


# -- the whole job ---------------------------------------------------------------------------------


def _columns(spec: Spec) -> str:
    doubles, strings = feature_names(spec.features)
    return ", ".join([f"{n} DOUBLE" for n in doubles] + [f"{n} STRING" for n in strings])


def _whole_tables(spec: Spec) -> list[str]:
    # Waiting for more files: the job reads everything and then holds its state, to be looked at.
    wait = "" if spec.goal == "speed" else ", 'source.monitor-interval' = '1s'"

    # Requests come due, in the plan that orders by time, one window after they were made.
    shift = spec.window_ms if spec.plan == "over" else 0

    def source(stream: str, columns: str, shift: int = 0) -> str:
        if spec.source == "kafka":
            where = f"""'connector' = 'kafka', 'topic' = '{spec.topics}-{stream}',
                'properties.bootstrap.servers' = '{spec.brokers}',
                'scan.startup.mode' = 'earliest-offset', 'scan.bounded.mode' = 'latest-offset'"""
        else:
            where = f"""'connector' = 'filesystem', 'path' = 'file://{spec.data}/{stream}'{wait}"""
        return f"""CREATE TABLE {stream} ({columns},
            rt AS TO_TIMESTAMP_LTZ(event_time + {shift}, 3),
            WATERMARK FOR rt AS rt - {_interval(DISORDER_MS)})
            WITH ({where}, 'format' = 'json')"""

    features = _columns(spec)
    return [
        source(
            "features",
            "request_id STRING, user_id STRING, event_time BIGINT,"
            f" items ARRAY<ROW<item_id STRING, features ROW<{features}>>>",
            shift,
        ),
        source(
            "actions",
            "request_id STRING, item_id STRING, action STRING, event_time BIGINT",
        ),
        _whole_sink(spec),
    ]


def _whole_sink(spec: Spec) -> str:
    """The table of samples as the job declares it, but for the hashed ids, which SQL has not."""
    doubles, strings = feature_names(spec.features)
    schema = FeatureSchema.of(
        [
            Feature(name, FeatureType.parse(type_name), "item", True, "feature")
            for names, type_name in ((doubles, "float64"), (strings, "string"))
            for name in names
        ]
    )
    columns = samples(schema, (ActionKind("click", spec.window_ms, "any"),))
    columns = pa.schema([field for field in columns if field.name != "sample_id"])
    if spec.goal == "speed":
        options = {
            "connector": "filesystem",
            "path": f"{spec.scratch}/out/samples",
            "format": "parquet",
            "parquet.compression": "ZSTD",
            "parquet.utc-timezone": "true",
            "sink.partition-commit.trigger": "partition-time",
            "sink.partition-commit.delay": f"{3_600_000 + spec.window_ms} ms",
            "sink.partition-commit.policy.kind": "success-file",
            "sink.partition-commit.watermark-time-zone": "UTC",
            "partition.time-extractor.timestamp-pattern": "$dt $hr:00:00",
            "sink.rolling-policy.file-size": "128MB",
        }
        partitioned = " PARTITIONED BY (dt, hr)"
    else:
        options = {"connector": "print" if spec.goal == "delay" else "blackhole"}
        partitioned = ""
    return (
        f"CREATE TABLE samples ({sql_columns(columns)}, dt STRING, hr STRING){partitioned}"
        f" WITH ({sql.options(options)})"
    )


#: Columns that are the same in every row here; `delay` is null without a click.
_LABELS = """CAST(CASE WHEN {delay} IS NULL THEN 0 ELSE 1 END AS TINYINT), {delay}, TRUE,
    CAST({observed} AS BIGINT), CAST(NULL AS BOOLEAN), CAST(1.0 AS DOUBLE), 0, 'final'"""


def _day_hour(time: str) -> str:
    return f"DATE_FORMAT({time}, 'yyyy-MM-dd') AS dt, DATE_FORMAT({time}, 'HH') AS hr"


def _whole_select(spec: Spec) -> str:
    doubles, strings = feature_names(spec.features)
    names = doubles + strings
    exploded = "item_id, ft, p"
    window = _interval(spec.window_ms)
    if spec.plan == "interval":
        return f"""SELECT i.request_id, i.user_id, i.item_id, i.pos, i.event_time,
            {", ".join(f"i.{n}" for n in names)},
            {_LABELS.format(delay="(a.event_time - i.event_time)", observed=spec.window_ms)},
            {_day_hour("i.rt")}
            FROM (SELECT request_id, user_id, item_id, p - 1 AS pos, event_time, rt,
                         {", ".join(f"ft.{n}" for n in names)}
                  FROM features
                  CROSS JOIN UNNEST(items) WITH ORDINALITY AS x({exploded})) i
            LEFT JOIN (SELECT * FROM actions WHERE action = 'click') a
            ON i.request_id = a.request_id AND i.item_id = a.item_id
            AND a.rt BETWEEN i.rt AND i.rt + {window}"""
    delay = "(CAST(clicks[item_id] AS BIGINT) - event_time)"
    # The position and time of each click, gathered as text, become a map once a request.
    nothing = "CAST(NULL AS STRING)"
    return f"""SELECT request_id, user_id, item_id, p - 1, event_time,
        {", ".join(f"ft.{n}" for n in names)},
        {_LABELS.format(delay=delay, observed=spec.window_ms)}, dt, hr
        FROM (SELECT request_id, user_id, event_time, items,
                     {_day_hour("TO_TIMESTAMP_LTZ(event_time, 3)")},
                     STR_TO_MAP(clicks, ',', ':') AS clicks
              FROM (SELECT request_id, user_id, event_time, items,
                           LISTAGG(click) OVER (PARTITION BY request_id ORDER BY rt
                               RANGE BETWEEN {window} PRECEDING AND CURRENT ROW) AS clicks
                    FROM (SELECT request_id, user_id, event_time, items, {nothing} AS click, rt
                          FROM features
                          UNION ALL
                          SELECT request_id, {nothing}, event_time, {_no_items(spec)},
                                 item_id || ':' || CAST(event_time AS STRING), rt
                          FROM actions WHERE action = 'click'))
              WHERE items IS NOT NULL)
        CROSS JOIN UNNEST(items) WITH ORDINALITY AS x({exploded})"""


def _no_items(spec: Spec) -> str:
    return f"CAST(NULL AS ARRAY<ROW<item_id STRING, features ROW<{_columns(spec)}>>>)"


# -- the join alone --------------------------------------------------------------------------------

#: When the one click of a request comes, milliseconds after it, and at which position.
CLICK_AFTER_MS, CLICK_POSITION = 5_000, 7


def _alone_tables(spec: Spec) -> list[str]:
    """Keys are numbers here, not strings: to the advantage of the SQL plans."""
    payload = "x" * (PAYLOAD_BYTES - 8)

    def value(number: str) -> str:
        return f"'{payload}' || CAST({number} AS STRING)"

    if spec.plan == "interval":
        requests = _generated(
            "requests",
            spec,
            rows=spec.impressions,
            columns=f"n AS i / {ITEMS}, p AS MOD(i, {ITEMS}), f AS {value('i')}",
            time=f"i / {ITEMS} * {spec.step_ms}",
        )
    else:
        items = ", ".join([value("i")] * ITEMS)
        requests = _generated(
            "requests",
            spec,
            rows=spec.requests,
            columns=f"fs AS ARRAY[{items}]",
            time=f"i * {spec.step_ms} + {spec.window_ms}",
        )
    actions = _generated(
        "actions", spec, spec.requests, "", f"i * {spec.step_ms} + {CLICK_AFTER_MS}"
    )
    sink = f"""CREATE TABLE samples (n BIGINT, p INT, f STRING, label_click INT,
        delay_click_ms BIGINT) WITH ('connector' = '{_alone_sink(spec)}')"""
    return [requests, actions, sink]


def _alone_sink(spec: Spec) -> str:
    return "print" if spec.goal == "delay" else "blackhole"


def _generated(name: str, spec: Spec, rows: int, columns: str, time: str) -> str:
    """A table of ``rows`` rows, i = 0, 1, ...; without an end unless it is for speed.

    Flink's generator throttles to 10,000 rows a second unless told otherwise.
    """
    columns = f"{columns}," if columns else ""
    if spec.goal == "speed":
        number = "i BIGINT"
        source = f"""'connector' = 'datagen', 'rows-per-second' = '1000000000',
            'fields.i.kind' = 'sequence', 'fields.i.start' = '0', 'fields.i.end' = '{rows - 1}'"""
    else:
        number = "v STRING, i AS CAST(v AS BIGINT)"
        folder = number_folder(spec, name, rows)
        source = f"""'connector' = 'filesystem', 'path' = {sql.literal(str(folder))},
            'format' = 'raw', 'source.monitor-interval' = '1s'"""
        columns = re.sub(r"\bi\b", "CAST(v AS BIGINT)", columns)
        time = re.sub(r"\bi\b", "CAST(v AS BIGINT)", time)
    return f"""CREATE TABLE {name} ({number}, {columns}
        t AS {START_MS} + {time}, rt AS TO_TIMESTAMP_LTZ({START_MS} + {time}, 3),
        WATERMARK FOR rt AS rt - {_interval(DISORDER_MS)}) WITH ({source})"""


def _alone_select(spec: Spec) -> str:
    window = _interval(spec.window_ms)
    if spec.plan == "interval":
        return f"""SELECT r.n, CAST(r.p AS INT), r.f, CASE WHEN a.t IS NULL THEN 0 ELSE 1 END,
            a.t - r.t
            FROM requests r
            LEFT JOIN (SELECT i * {ITEMS} + {CLICK_POSITION} AS i, t, rt FROM actions) a
            ON r.i = a.i AND a.rt BETWEEN r.rt AND r.rt + {window}"""
    delay = f"(CAST(clicks[CAST(p AS STRING)] AS BIGINT) - (t - {spec.window_ms}))"
    return f"""SELECT i, p, f, CASE WHEN {delay} IS NULL THEN 0 ELSE 1 END, {delay}
        FROM (SELECT i, fs, t, STR_TO_MAP(clicks, ',', ':') AS clicks
              FROM (SELECT i, fs, t, LISTAGG(click) OVER (PARTITION BY i ORDER BY rt
                               RANGE BETWEEN {window} PRECEDING AND CURRENT ROW) AS clicks
                    FROM (SELECT i, fs, CAST(NULL AS STRING) AS click, t, rt FROM requests
                          UNION ALL
                          SELECT i, CAST(NULL AS ARRAY<STRING>),
                                 '{CLICK_POSITION + 1}:' || CAST(t AS STRING), t, rt FROM actions))
              WHERE fs IS NOT NULL)
        CROSS JOIN UNNEST(fs) WITH ORDINALITY AS x(f, p)"""
