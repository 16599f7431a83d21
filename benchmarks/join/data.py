"""The input of the whole job: requests and clicks as JSON lines, from a seed.

Request n is at ``START_MS + n * step_ms``, its items are distinct, and half of its features are
doubles with all their digits, half short strings. Each impression is clicked at most once, with a
probability of ``click_percent`` percent; the delay is log-normal (median 8 s), cut at the window.
Both files are in the order of event time.
"""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np

from benchmarks.join.spec import START_MS, Spec

DELAY_MEDIAN_MS = 8_000.0
_CATALOGUE = 100_000
_WORDS = [f"v{n}" for n in range(1_000)]
_encode = msgspec.json.Encoder().encode


def feature_names(features: int) -> tuple[list[str], list[str]]:
    """The names of the doubles and of the strings."""
    doubles = features // 2
    return [f"d{n}" for n in range(doubles)], [f"s{n}" for n in range(features - doubles)]


def input_name(spec: Spec) -> str:
    """What all specs with the same input, and no others, have in common."""
    return (
        f"{spec.requests}x{spec.items}-f{spec.features}-c{spec.click_percent}"
        f"-step{spec.step_ms}-w{spec.window_ms}"
    )


def input_folder(cache: Path, spec: Spec) -> Path:
    """Where the input of this spec is, made if it is not there yet.

    Returns:
        A folder with ``features/part.jsonl``, ``actions/part.jsonl``.
    """
    folder = cache / input_name(spec)
    if not (folder / "complete").exists():
        for stream in ("features", "actions"):
            (folder / stream).mkdir(parents=True, exist_ok=True)
        _write(spec, folder)
        (folder / "complete").touch()
    return folder


def _write(spec: Spec, folder: Path) -> None:
    rng = np.random.default_rng(1)
    doubles, strings = feature_names(spec.features)
    names = doubles + strings
    clicks: list[tuple[int, int, int, str]] = []
    with (folder / "features" / "part.jsonl").open("wb") as out:
        for n in range(spec.requests):
            time = START_MS + n * spec.step_ms
            first = int(rng.integers(_CATALOGUE))
            numbers = rng.random((spec.items, len(doubles))).tolist()
            words = rng.integers(len(_WORDS), size=(spec.items, len(strings))).tolist()
            items = []
            for p in range(spec.items):
                # 37 and the catalogue's size have no common divisor: no item twice.
                values = [*numbers[p], *(_WORDS[w] for w in words[p])]
                items.append(
                    {
                        "item_id": f"i{(first + 37 * p) % _CATALOGUE}",
                        "features": dict(zip(names, values, strict=True)),
                    }
                )
            record = {
                "request_id": f"r{n:08}",
                "user_id": f"u{n % 1000}",
                "event_time": time,
                "context": {},
                "items": items,
            }
            out.write(_encode(record) + b"\n")
            for p in np.flatnonzero(rng.random(spec.items) < spec.click_percent / 100).tolist():
                delay = round(rng.lognormal(np.log(DELAY_MEDIAN_MS), 1.0))
                item = str(items[p]["item_id"])
                clicks.append((time + min(delay, spec.window_ms), n, p, item))
    clicks.sort()
    with (folder / "actions" / "part.jsonl").open("wb") as out:
        for time, n, p, item in clicks:
            action = {
                "event_id": f"e{n}-{p}",
                "user_id": f"u{n % 1000}",
                "item_id": item,
                "request_id": f"r{n:08}",
                "action": "click",
                "event_time": time,
            }
            out.write(_encode(action) + b"\n")


def number_folder(spec: Spec, name: str, rows: int) -> Path:
    """A folder with a file of the numbers below ``rows``: a source that Flink can wait at."""
    folder = Path(spec.scratch) / "numbers" / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "numbers.txt").write_text("".join(f"{i}\n" for i in range(rows)))
    return folder
