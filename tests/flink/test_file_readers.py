"""Several readers of files against one: the same rows, late records included.

One reader is held against the oracle elsewhere. Here the order of arrival decides much: chunks of a
few records, folders side by side, records far behind, actions that fall silent.
"""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import pytest

from tests import configured
from tests.e2e import outcomes
from tests.flink import running
from tests.timeline import Action, Key, LabelSilence, Request, Rules

START = 1_700_000_000_000
BOUND = 3_000


def write(folder: Path, seed: int) -> None:
    """Two folders of each stream, each a log of three files. One event in eight comes late by up to
    two windows. There are no actions in the middle.
    """
    choose = random.Random(seed)
    logs: dict[tuple[str, str], list[tuple[int, Request | Action]]] = {
        (stream, host): [] for stream in ("features", "actions") for host in ("a", "b")
    }

    def log(stream: str, event: Request | Action) -> None:
        late = choose.randrange(120_000) if choose.random() < 0.12 else choose.randrange(BOUND)
        logs[stream, choose.choice("ab")].append((event.event_time + late, event))

    for i in range(240):
        time, user = START + i * 4_000 + choose.randrange(4_000), f"u{choose.randrange(25)}"
        items = tuple(choose.sample([f"i{n}" for n in range(7)], 3))
        log("features", Request(f"r{i}", user, time, items))
        for n in range(choose.randrange(4) if not 100 < i < 140 else 0):
            at = time + choose.randrange(-1_000, 70_000)
            kind = choose.choice(["click", "buy", "unknown"])
            value = choose.choice([1.0, 2.5])
            log(
                "actions", Action(f"e{i}-{n}", user, choose.choice(items), f"r{i}", kind, value, at)
            )
    for (stream, host), events in logs.items():
        lines = [outcomes.as_record(e) for _, e in sorted(events, key=lambda pair: pair[0])]
        (folder / stream / host).mkdir(parents=True)
        third = len(lines) // 3 + 1
        for n in range(3):
            text = b"".join(line + b"\n" for line in lines[n * third : (n + 1) * third])
            (folder / stream / host / f"{n}.jsonl").write_bytes(text)


def rules(key: Key) -> Rules:
    return Rules(
        key,
        {"click": 20_000, "buy": 60_000},
        {"click": "count", "buy": "sum"},
        skew=500,
        lateness=1_000,
        max_actions=6,
        silence=LabelSilence(30_000, BOUND),
    )


def configuration(rules: Rules) -> str:
    text = configured.toml(rules, f"{BOUND}ms")
    head, _, tail = text.partition("[features.")
    features = '[features.price]\ntype = "float64"\n[sources.features]'
    return head + features + tail.partition("[sources.features]")[2]


def joined(config: Path, output: Path, readers: int, parallelism: int) -> Counter[str]:
    """The rows of the three tables; the job reads chunks of about a record."""
    sets = (
        f"output.path={output}",
        f"runtime.file_readers={readers}",
        f"runtime.parallelism={parallelism}",
        "runtime.max_late_requests=1",
    )
    arguments = ("nowhere", "0", str(config), *(f"--set={s}" for s in sets))
    done = running.run_module("tests.e2e.failing_job", *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = Counter[str]()
    for table in ("samples", "late_actions", "rejected"):
        for row in running.rows(output, table):
            row.pop("made_at", None)
            rows[f"{table} {sorted(row.items())}"] += 1
    return rows


@pytest.mark.parametrize(
    ("key", "readers", "parallelism"),
    [
        ("request_id", 3, 2),
        pytest.param("user_id", 2, 4, marks=pytest.mark.thorough),
    ],
)
def test_several_readers_give_what_one_gives(
    tmp_path: Path, key: Key, readers: int, parallelism: int
) -> None:
    write(tmp_path, seed=11)
    config = tmp_path / "pipeline.toml"
    config.write_text(configuration(rules(key)))
    due = joined(config, tmp_path / "one", 1, 1)
    tables = Counter(row.partition(" ")[0] for row in due.elements())
    assert min(tables[t] for t in ("samples", "late_actions", "rejected")) > 10, tables
    found = joined(config, tmp_path / "several", readers, parallelism)
    assert (due - found, found - due) == (Counter(), Counter())
