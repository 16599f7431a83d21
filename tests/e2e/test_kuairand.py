"""examples/kuairand, as a person runs it: convert, join on the mini-cluster, check.

The data are not bundled. Set SAMPLE_STITCH_KUAIRAND to the file, or have it at
``../shared/data/kuairand_extract.tsv`` beside the repository; without it the tests on it are
skipped, and a small file of the same form, written here, has to do.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from services.java import find_java_home
from tools.summary.read import Summary, summarise

pytestmark = pytest.mark.thorough

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "kuairand"
VARIABLE = "SAMPLE_STITCH_KUAIRAND"
DEADLINE_S = 240

HEADER = [
    "user_id",
    "video_id",
    "date",
    "hourmin",
    "time_ms",
    "is_click",
    "is_follow",
    "is_comment",
    "is_forward",
    "long_view",
    "play_time_ms",
    "duration_ms",
    "comment_stay_time",
    "is_profile_enter",
    "label",
    "timestamp",
]
T0 = 1_649_581_149_287  # 2022-04-10 08:59 UTC
SECOND = 1_000


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Runs this Python in the repository; what it has started goes with it, in time or not."""
    environment = {
        **os.environ,
        "JAVA_HOME": str(find_java_home()),
        # thread mode starts the `python` that is first on PATH
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
    }
    command = [sys.executable, *map(str, arguments)]
    with subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            output, _ = process.communicate(timeout=DEADLINE_S)
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            raise
    return subprocess.CompletedProcess(command, process.returncode, output)


def convert(source: Path, out: Path) -> Path:
    """The folder with the event streams."""
    done = run(EXAMPLE / "convert.py", "--input", source, "--out", out)
    assert done.returncode == 0, done.stdout
    return out


def join(events: Path, output: Path, key: str) -> Summary:
    """Runs the job; what it has written."""
    done = run(
        *("-m", "jobs.join_samples", "--config", events / "pipeline.toml"),
        *("--set", f"output.path={output}", "--set", f"join.key={key}"),
    )
    assert done.returncode == 0, done.stdout
    return summarise(output)


def check(source: Path, events: Path, output: Path, key: str) -> subprocess.CompletedProcess[str]:
    return run(
        *(EXAMPLE / "check.py", "--input", source, "--config", events / "pipeline.toml"),
        *("--output", output, "--key", key),
    )


def accounted(events: Path, output: Path, key: str) -> None:
    """Every record is somewhere."""
    done = run(
        *("-m", "tools.audit", "--config", events / "pipeline.toml"),
        *("--set", f"output.path={output}", "--set", f"join.key={key}"),
    )
    assert done.returncode == 0, done.stdout


def positives(summary: Summary) -> dict[str, int]:
    return {k.kind: k.positives for k in summary.kinds}


# -- the real file ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def kuairand() -> Path:
    """The file, if it is there."""
    path = Path(
        os.environ.get(VARIABLE) or ROOT.parent / "shared" / "data" / "kuairand_extract.tsv"
    )
    if not path.is_file():
        pytest.skip(f"the KuaiRand file is not there ({path}); set {VARIABLE} to its path")
    return path


@pytest.fixture(scope="module")
def kuairand_events(kuairand: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return convert(kuairand, tmp_path_factory.mktemp("kuairand") / "events")


@pytest.mark.parametrize("key", ["request_id", "user_id"])
def test_real_exposures_join_as_the_file_says(
    kuairand: Path, kuairand_events: Path, tmp_path: Path, key: str
) -> None:
    output = tmp_path / "out"

    summary = join(kuairand_events, output, key)
    done = check(kuairand, kuairand_events, output, key)

    assert done.returncode == 0, done.stdout
    accounted(kuairand_events, output, key)
    with kuairand.open() as file:
        assert summary.impressions == sum(1 for _ in file) - 1


# -- a small one -----------------------------------------------------------------------------------


def exposure(
    user: int,
    video: int,
    time: int,
    *,
    click: int = 0,
    long_view: int = 0,
    play: int = 0,
    comment_stay: int | None = None,
    like: int = 0,
) -> list[str]:
    """A line; `time`, `play` and `comment_stay` in seconds, `time` since T0."""
    row = dict.fromkeys(HEADER, "0") | {
        "user_id": str(user),
        "video_id": str(video),
        "hourmin": "1600",
        "time_ms": str(T0 + time * SECOND),
        "is_click": str(click),
        "is_comment": str(int(comment_stay is not None)),
        "long_view": str(long_view),
        "play_time_ms": str(play * SECOND),
        "duration_ms": "45000",
        "comment_stay_time": str((comment_stay or 0) * SECOND),
        "label": str(like),
        "timestamp": "2022-04-10 08:59:09",
    }
    return list(row.values())


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Out of order, as the real one is."""
    rows = [
        exposure(3, 9, 7_200, click=1),  # line 2: the end; its windows are open
        exposure(1, 1, 0, click=1, long_view=1, play=60, like=1),  # line 3
        exposure(1, 1, 0, click=1, long_view=1, play=60, like=1),  # line 4: logged twice
        exposure(1, 1, 30, click=1, play=20, like=1),  # line 5: shown again
        exposure(2, 1, 10, long_view=1, play=300, like=1),  # line 6: at the edge of the window
        exposure(2, 2, 10, long_view=1, play=301, comment_stay=180),  # line 7: view too late
        exposure(2, 3, 10, long_view=1, play=601, comment_stay=181),  # line 8: view an orphan
        exposure(2, 4, 11, play=5),  # line 9: nothing
    ]
    path = tmp_path_factory.mktemp("small") / "small.tsv"
    lines = ["\t".join(row) for row in [HEADER, *rows]]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def spoil(output: Path) -> None:
    """Changes one label in the Parquet of a job."""
    path = next((output / "samples" / "dt=2022-04-10" / "hr=08").glob("[!._]*"))
    table = pq.read_table(path)
    index = table.schema.get_field_index("label_like")
    other = pa.array([like + 1 for like in table["label_like"].to_pylist()], type=pa.int64())
    pq.write_table(table.set_column(index, "label_like", other), path)


@pytest.mark.parametrize(
    ("key", "truth"),
    [
        # line 5 takes the likes and views that came after it
        ("user_id", {"click": 3, "long_view": 2, "comment": 1, "like": 2}),
        ("request_id", {"click": 4, "long_view": 3, "comment": 1, "like": 4}),
    ],
)
def test_a_small_file_joins_as_it_says_and_the_check_notices_what_differs(
    small: Path, tmp_path: Path, key: str, truth: dict[str, int]
) -> None:
    events, output = convert(small, tmp_path / "events"), tmp_path / "out"

    summary = join(events, output, key)
    done = check(small, events, output, key)

    assert done.returncode == 0, done.stdout
    accounted(events, output, key)
    assert positives(summary) == truth
    assert (summary.impressions, summary.kinds[0].immature) == (8, 0)
    assert summary.late == {
        ("comment", "outside_window"): 1,
        ("long_view", "outside_window"): 1,
    }
    assert summary.rejected == {("actions", "orphan_action"): 1}

    spoil(output)
    done = check(small, events, output, key)
    assert done.returncode == 1
    assert "label_like" in done.stdout


# -- what cannot be --------------------------------------------------------------------------------


def refused(arguments: Sequence[str | Path]) -> str:
    """What a script says when it ends with 2: one line."""
    done = run(*arguments)
    assert done.returncode == 2, done.stdout
    [line] = done.stdout.splitlines()
    return line


def test_the_converter_says_in_one_line_what_is_wrong(small: Path, tmp_path: Path) -> None:
    def converting(source: Path, out: Path) -> list[str | Path]:
        return [EXAMPLE / "convert.py", "--input", source, "--out", out]

    out = tmp_path / "events"
    assert "No such file" in refused(converting(tmp_path / "nowhere.tsv", out))

    text = small.read_text()
    other = tmp_path / "other.tsv"
    other.write_text(text.replace("play_time_ms", "played"))
    assert "no column play_time_ms" in refused(converting(other, out))
    other.write_text(text.replace("45000", "long", 1))
    assert "line 2: invalid literal for int() with base 10: 'long'" in refused(
        converting(other, out)
    )
    other.write_text(text + "1\t2\n")
    assert "line 10: 2 columns, 16 expected" in refused(converting(other, out))

    convert(small, out)
    assert "is not empty" in refused(converting(small, out))


def test_the_check_says_in_one_line_what_is_wrong(small: Path, tmp_path: Path) -> None:
    arguments: list[str | Path] = [EXAMPLE / "check.py", "--input", small]
    arguments += ["--config", EXAMPLE / "pipeline.toml", "--output", tmp_path / "nowhere"]
    assert "nowhere: there is no such folder" in refused(arguments)
