"""One run whose output, input folders, files and features have all the hard characters at once."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow.dataset as ds

from tests.flink import running

START = 1_700_000_000_000
HARD = 'bob\'s\n[v1] `a` "b" 100% $HOME x=1 k:v #é価😀 {a,b} *?!;&|<>~%20'
#: Flink takes a backslash for a slash, so it may stand in what Python reads only.
HARD_INPUT = HARD + "\\n\\"
FEATURES = (
    *(
        "it's",
        "a",
        "a.b",
        "a.b.c",
        "`tick`",
        "x=y",
        "50%",
        "$price",
        "[v1]",
        "k:v",
        "naïve",
        "価格",
    ),
    *("😀", " lead", "trail ", "semi;colon", "*/ } //", "--", "/* x */", "${x}", "*", "?", "{0}"),
    *("#", "/slash/", "a,b", "(", "<b>", "[bold]", "'", "''", "dt=1", ".hidden", "_under", "NULL"),
    *("\u200d", "\ufeff", "e\u0301", "select", "x" * 256),
)
HOURS = 3


def quoted(text: str) -> str:
    """A TOML string; JSON's escapes are among TOML's."""
    return json.dumps(text, ensure_ascii=False)


def test_hard_names_from_end_to_end(tmp_path: Path) -> None:
    home = tmp_path / HARD
    output = home / f"out {HARD}"
    requests, actions = events()
    folders = {name: home / f"{name} {HARD_INPUT}" for name in ("features", "actions")}
    write_as_hosts(folders["features"], requests)
    write_as_hosts(folders["actions"], actions)
    text = '[actions.click]\nwindow = "10s"\n'
    for i, name in enumerate(FEATURES):
        scope = "item" if i % 2 else "context"
        text += f'[features.{quoted(name)}]\ntype = "string"\nscope = "{scope}"\n'
    # a folder above with brackets in its name, and a glob of its own below it
    text += f'[sources.features]\ntype = "files"\npath = {quoted(folders["features"].name)}\n'
    glob = "actions *[[]v1[]]*/**/*.jsonl*"
    text += f'[sources.actions]\ntype = "files"\npath = {quoted(glob)}\n'
    text += f"[output]\npath = {quoted(output.name)}\n"
    config = home / f"pipe {HARD}.toml"
    config.write_text(text, encoding="utf-8")

    done = running.run_module("jobs.join_samples", "--config", str(config))
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"samples are in {output}" in done.stderr
    assert "warning" not in done.stderr

    rows = ds.dataset(output / "samples", format="parquet", partitioning="hive").to_table()
    assert rows.num_rows == len(requests)
    assert rows.column_names[6 : 6 + len(FEATURES)] == list(FEATURES)
    for row in rows.to_pylist():
        assert [row[name] for name in FEATURES] == [
            value(name, row["request_id"]) for name in FEATURES
        ]
        # half a window of hours of one host, and then of the next one, is no lateness
        assert row["label_click"] == int(row["request_id"][1:]) % 2
    assert not running.rows(output, "rejected")
    assert not running.rows(output, "late_actions")

    audit = running.run_module("tools.audit", "--config", str(config))
    assert audit.returncode == 0, audit.stdout + audit.stderr
    assert "Every record is accounted for." in audit.stdout
    summary = running.run_module("tools.summary", str(output))
    assert summary.returncode == 0, summary.stdout + summary.stderr
    assert f"under {output}" in summary.stdout


def value(name: str, request: str) -> str:
    return f"{request} {name}"


def events() -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Requests of some hours; every second one is clicked."""
    requests, actions = [], []
    for n in range(HOURS * 60):
        name, time = f"r{n}", START + n * 60_000
        context, item = (
            {f: value(f, name) for i, f in enumerate(FEATURES) if i % 2 == odd} for odd in (0, 1)
        )
        items = [{"item_id": "i", "features": item}]
        requests.append(
            {"request_id": name, "user_id": "u", "event_time": time, "context": context}
            | {"items": items}
        )
        if n % 2:
            click = {"request_id": name, "user_id": "u", "item_id": "i", "action": "click"}
            actions.append(click | {"event_time": time + 5_000})
    return requests, actions


def write_as_hosts(folder: Path, records: list[dict[str, Any]]) -> None:
    """By turns to four hosts: plain, as Spark writes it, gzip of two members, and a link."""
    lines = [json.dumps(r, ensure_ascii=False).encode() for r in records]
    first, second, third, fourth = (b"\r\n".join(lines[n::4]) for n in range(4))
    for host in ("host [1]", "host 2/day.jsonl", "host%203", "_temporary/0"):
        (folder / host).mkdir(parents=True)
    (folder / "host [1]" / f"it's {HARD_INPUT}.jsonl").write_bytes(b"\xef\xbb\xbf" + first)
    # the glob of the actions takes *.jsonl* and what lies in folders that are called so
    (folder / "host 2" / "day.jsonl" / "part-00000.json").write_bytes(second + b"\n")
    (folder / "host 2" / "day.jsonl" / "_SUCCESS").touch()
    half = third.index(b"\n", len(third) // 2)
    packed = gzip.compress(third[:half]) + gzip.compress(third[half:])
    (folder / "host%203" / "a\nb.jsonl.gz").write_bytes(packed)
    (folder / "empty.jsonl").touch()
    (folder / "_temporary" / "0" / "part-00000.jsonl").write_bytes(first)
    elsewhere = folder.parent / f"elsewhere {folder.name[:7]}"
    elsewhere.mkdir()
    (elsewhere / "x.jsonl").write_bytes(fourth)
    (folder / "linked").symlink_to(elsewhere)
