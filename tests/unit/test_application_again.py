"""A program that a cluster runs again for the same job, after the loss of its job manager."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs.join_samples import PROGRAM
from jobs.pipeline import command, environment, runs
from jobs.pipeline.command import Asked
from jobs.pipeline.config import ConfigError, load

JOB = "5a17c4" + "0" * 26
CONFIG = Path(__file__).resolve().parents[1] / "fixtures/by_hand/request_id/pipeline.toml"


@pytest.fixture
def options(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Flink's options, as an application of Kubernetes has them."""
    found = {"high-availability.type": "kubernetes", "$internal.pipeline.job-id": JOB}
    monkeypatch.setattr(environment, "option", lambda _, key: found.get(key))
    monkeypatch.setenv("PYFLINK_GATEWAY_PORT", "1")
    return found


def begin(output: Path) -> tuple[str, str | None]:
    pipeline = load(CONFIG, (f"output.path={output}",))
    asked = Asked(CONFIG, (), explain=False, restore=None, overwrite=False, append=False)
    return command._begin(PROGRAM, pipeline, asked, None)


def rows_of(job: str, output: Path) -> None:
    """An output with rows, and the start of a job in its list."""
    (output / "samples" / "dt=2023-11-14").mkdir(parents=True)
    (output / "samples" / "dt=2023-11-14" / "part-0.parquet").touch()
    runs.note(str(output), runs.started(job, "fresh", None), {})


def test_the_same_job_goes_on(options: dict[str, str], tmp_path: Path) -> None:
    rows_of(JOB, tmp_path)
    assert begin(tmp_path) == ("restore", None)

    # it began from a savepoint, which the cluster names each time; there are newer rows by now
    options[environment.RESTORE_PATH] = str(tmp_path / "savepoint-5a17c4-1")
    assert begin(tmp_path) == ("restore", options[environment.RESTORE_PATH])


@pytest.mark.parametrize(
    ("option", "value"),
    [("high-availability.type", "NONE"), ("$internal.pipeline.job-id", "another")],
)
def test_another_job_or_one_that_nothing_remembers_does_not(
    options: dict[str, str], option: str, value: str, tmp_path: Path
) -> None:
    """It would begin at the start of its input, and write all rows again."""
    rows_of(JOB, tmp_path)
    options[option] = value
    with pytest.raises(ConfigError, match="has rows already"):
        begin(tmp_path)


def test_a_first_start_is_none(options: dict[str, str], tmp_path: Path) -> None:
    assert begin(tmp_path) == ("fresh", None)
