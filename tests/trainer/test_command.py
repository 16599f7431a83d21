"""`python -m trainer.train`: what it says, what it leaves, how it ends.

Processes of its own are few, as each compiles anew; what is wrong before a run begins is shown in
this one.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from html import unescape
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from benchmarks.trainer.data import Traffic, files, write
from tests.trainer import runs
from trainer import checkpoint
from trainer.checkpoint import Manifest
from trainer.run.local import LocalRunner
from trainer.run.runner import LostShardError, ServerGoneError
from trainer.server.shard import ShardSnapshot
from trainer.train import main

ROOT = Path(__file__).parents[2]
TRAFFIC = Traffic(rows=8_192, files=2, hours=2, users=400, catalogue=300)
#: So small that a run takes a second or two, most of which is after its first checkpoint.
BATCH = 8
STEPS = TRAFFIC.rows // BATCH
#: A counter of 8 MiB in every checkpoint: it takes its time.
SLOW_TO_SAVE = "slots.item_id.admit_after=2"
DEADLINE_S = 120.0


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("samples")
    write(TRAFFIC, root)
    return root


def arguments(folder: Path, output: Path, *settings: str) -> list[str]:
    ours = (f"output.path={output}", f"train.batch={BATCH}", "output.resume=true", *settings)
    return ["--config", str(folder / "trainer.toml"), *(a for s in ours for a in ("--set", s))]


def started(folder: Path, output: Path, *settings: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "trainer.train", *arguments(folder, output, *settings)],
        cwd=ROOT,
        env=os.environ | {"COLUMNS": "120"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@dataclass
class Ended:
    code: int
    out: str
    err: str

    def numbers(self, action: str) -> list[str]:
        """The cells of the action's row in the headline, of the whole run."""
        (line, *_) = (x for x in self.out.splitlines() if x.split()[:1] == [action])
        return line.split()

    def said(self, name: str) -> str:
        (value,) = re.findall(rf"^  {name}  +(.+)$", self.out, re.MULTILINE)
        return str(value)


def ended(process: subprocess.Popen[str]) -> Ended:
    try:
        out, err = process.communicate(timeout=DEADLINE_S)
    finally:
        process.kill()
    return Ended(process.returncode, out, err)


def newest(output: Path) -> tuple[Manifest, ShardSnapshot]:
    folder = checkpoint.find(output / "checkpoints")[-1]
    manifest = checkpoint.read_manifest(folder)
    return manifest, runs.one(checkpoint.read_shards(folder, manifest))


def metrics(output: Path) -> list[dict[str, Any]]:
    return list(pq.read_table(output / "evaluation" / "metrics.parquet").to_pylist())


@pytest.fixture(scope="module")
def uninterrupted(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Ended]:
    output = tmp_path_factory.mktemp("uninterrupted") / "model"
    return output, ended(started(folder, output, SLOW_TO_SAVE))


def test_a_run_to_the_end(uninterrupted: tuple[Path, Ended]) -> None:
    output, run = uninterrupted
    assert run.code == 0, run.err
    assert run.said("samples") == "8,192"
    assert run.said("model") == "lr, 12 slots, heads click"
    assert run.said("checkpoints, exports") == "1, 1"
    manifest, parts = newest(output)
    # --set train.batch is what it was trained with
    assert manifest.step == STEPS
    assert parts.rows > 1_000
    assert "Traceback" not in run.err
    assert (output / "serving" / "current.json").is_file()


def test_the_page_and_the_table_have_the_numbers_of_the_terminal(
    uninterrupted: tuple[Path, Ended],
) -> None:
    output, run = uninterrupted
    page = (output / "evaluation" / "report.html").read_text()
    assert run.said("page").endswith("evaluation/report.html")
    cells = [
        [unescape(cell) for cell in re.findall("<td>(.*?)</td>", row)]
        for row in re.findall("<tr>(.*?)</tr>", page)
    ]
    shown = run.numbers("click")
    assert shown[1] == "8,192"
    assert shown in cells
    for name in ("model", "loss", "samples", "samples/s", "keys", "newest sample"):
        assert [name, run.said(name)] in cells

    rows = [row for row in metrics(output) if row["slice"] == "all"]
    assert [row["rows"] for row in rows] == [4_096, 4_096]
    # the whole run, from its two windows of equal size
    loss = sum(row["log_loss"] for row in rows) / 2
    assert f"{loss:.4f}" in shown
    assert {row["value"] for row in metrics(output) if row["slice"] == "position"} == set(
        map(str, range(10))
    )


def test_after_ctrl_c_the_same_command_goes_on(
    folder: Path, uninterrupted: tuple[Path, Ended], tmp_path: Path
) -> None:
    settings = (SLOW_TO_SAVE, "output.checkpoint_every=1ms")
    process = started(folder, tmp_path, *settings)
    end = time.monotonic() + DEADLINE_S
    while not checkpoint.find(tmp_path / "checkpoints") and process.poll() is None:
        assert time.monotonic() < end
        try:
            process.wait(timeout=0.005)
        except subprocess.TimeoutExpired:
            continue
    process.send_signal(signal.SIGINT)
    stopped = ended(process)
    assert stopped.code == 130, stopped.err
    assert "interrupted, and saved: the same command goes on from here" in stopped.err
    manifest, _ = newest(tmp_path)
    assert 0 < manifest.step < STEPS
    assert stopped.said("samples") == f"{manifest.step * BATCH:,}"
    assert sum(row["rows"] for row in metrics(tmp_path) if row["slice"] == "all") == (
        manifest.step * BATCH
    )

    again = ended(started(folder, tmp_path, *settings))
    assert again.code == 0, again.err
    before = f"{manifest.step * BATCH:,} samples were learned before"
    assert f"resumed from step-{manifest.step:012}: {before}" in " ".join(again.err.split())
    assert again.said("samples") == f"8,192 ({(STEPS - manifest.step) * BATCH:,} now)"
    output, whole = uninterrupted
    (mine, my_parts), (theirs, their_parts) = newest(tmp_path), newest(output)
    runs.assert_equal(my_parts, their_parts)
    assert mine.step == theirs.step
    assert mine.session["cursor"] == theirs.session["cursor"]
    assert again.numbers("click") == whole.numbers("click")
    for row, other in zip(metrics(tmp_path), metrics(output), strict=True):
        # sums of floats, in another order
        assert row == {
            name: pytest.approx(value, rel=1e-9) if isinstance(value, float) else value
            for name, value in other.items()
        }


# -- what is wrong ---------------------------------------------------------------------------------


def said(capsys: pytest.CaptureFixture[str], argv: list[str], code: int = 2) -> str:
    """What the command writes to stderr when it ends with `code`."""
    assert main(argv) == code
    return runs.unstamped(capsys.readouterr().err).strip()


def test_a_wrong_key_ends_the_process_with_2(folder: Path, tmp_path: Path) -> None:
    run = ended(started(folder, tmp_path, "train.batches=5"))
    assert run.code == 2
    assert run.err.startswith("train: --set train.batches=5: train.batches: there is no such key")
    assert "Traceback" not in run.err
    assert run.out == ""
    assert not (tmp_path / "checkpoints").exists()


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("train.batch=0", "train: --set train.batch=0: train.batch: expected `int` >= 1"),
        ("model.type=gbdt", "model.type: invalid enum value 'gbdt'; expected one of lr, fm"),
        ("slots.price.column=price", "slots.price: there is no column 'price' (there are: "),
        ("train.workers=2", "train.workers: with train.servers = 0 one process does it all"),
        ("loss.type=defer", "loss.type: 'defer' learns from rows that come before the end"),
        ("samples.path=elsewhere", "elsewhere has no samples/; run the joining job first"),
        ("samples.pipeline=no.toml", "samples.pipeline: there is no file"),
    ],
)
def test_a_configuration_that_is_wrong(
    setting: str, message: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = said(capsys, arguments(folder, tmp_path, setting))
    assert message in text
    assert text.startswith("train: ")
    assert len(text.splitlines()) == 1
    assert not (tmp_path / "checkpoints").exists()


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (LostShardError("shards [0]"), "no replica of shards [0] is left"),
        (ServerGoneError("server 0"), "server 0 ended while it was waited for"),
    ],
)
@pytest.mark.parametrize("often", [1, 5, 100])
def test_a_server_that_ends_while_servers_start(
    error: Exception,
    told: str,
    often: int,
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    original, starts = LocalRunner.start, []

    def start(self: LocalRunner, shards: Sequence[ShardSnapshot]) -> None:
        starts.append(len(shards))
        if len(starts) <= often:
            raise error
        original(self, shards)

    monkeypatch.setattr(LocalRunner, "start", start)
    code = main(arguments(folder, tmp_path / "out"))
    said = capsys.readouterr().err
    assert f"{told}; there is no checkpoint; starting over" in " ".join(said.split())
    if often < 6:
        assert code == 0, said
        assert len(starts) == often + 1
    else:
        assert code == 1
        assert len(starts) == 6
        assert f"{told}, for the 6th time since the last checkpoint" in said
    assert "Traceback" not in said


def test_no_configuration(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "none.toml"
    assert said(capsys, ["--config", str(path)]) == f"train: {path}: there is no such file"


def test_samples_that_cannot_be_read(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "out" / "samples" / files(folder)[0].relative_to(folder / "out/samples")
    broken.parent.mkdir(parents=True)
    broken.write_bytes(files(folder)[0].read_bytes()[:-50])
    argv = arguments(folder, tmp_path / "model", f"samples.path={tmp_path / 'out'}")
    text = said(capsys, argv)
    name = broken.relative_to(tmp_path / "out")
    assert text.startswith(f"train: {name}: cannot be read as Parquet (")
    assert "restore it, or move it away" in text


def test_samples_that_stand_for_nobody_knows_how_many(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """They are not as they should be: 2, and a line that says what to do."""
    path = files(folder)[0]
    table = pq.ParquetFile(path).read()
    at = table.schema.get_field_index("sampling_rate")
    table = table.set_column(at, table.schema.field(at), [[0.0] * table.num_rows])
    bad = tmp_path / "out" / "samples" / path.relative_to(folder / "out/samples")
    bad.parent.mkdir(parents=True)
    pq.write_table(table, bad)
    argv = arguments(folder, tmp_path / "model", f"samples.path={tmp_path / 'out'}")
    text = said(capsys, argv)
    assert "sampling_rate is 0.0 in row 0" in text
    assert 'loss.sampling = "none" does not read it' in text


def test_a_checkpoint_of_another_model(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = runs.configured(folder, tmp_path)
    runs.train_here(config, stop_after=1)
    text = said(capsys, arguments(folder, tmp_path, "model.type=fm"))
    assert text.startswith("train: ")
    assert "step-000000000001 is of another model: model.type was lr, and is fm; model" in text
    assert "Set these back, or set output.path to a new folder, or output.resume = false" in text
    # and that is what helps
    anew = arguments(folder, tmp_path, "model.type=fm", "output.resume=false")
    assert main(anew) == 0


def test_the_headline_is_not_cut_off_on_a_narrow_terminal(
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A number of which the end is missing is worse than a line that is too long."""
    monkeypatch.setenv("COLUMNS", "40")
    assert main(arguments(folder, tmp_path, "train.batch=4096")) == 0
    out = capsys.readouterr().out
    assert "8,192" in Ended(0, out, "").numbers("click")
    assert "…" not in out
