"""The locks of the Python packages: hashes, no addresses, one version of everything."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from services.jars import read_lock

REQUIREMENTS = Path(__file__).resolve().parents[2] / "requirements"
LOCKS = sorted(path.name for path in REQUIREMENTS.glob("*.lock"))


def _locked(name: str) -> dict[str, str]:
    """Return each package's requirement with its hashes, as one text."""
    text = (REQUIREMENTS / name).read_text(encoding="utf-8")
    entries = re.split(r"^(?=[a-z0-9])", text, flags=re.MULTILINE)
    return {entry.split("==")[0]: entry for entry in entries if "==" in entry}


def _version(entry: str) -> str:
    return entry.split("==")[1].split()[0]


@pytest.mark.parametrize("name", LOCKS)
def test_every_package_is_pinned_with_hashes_and_without_addresses(name: str) -> None:
    locked = _locked(name)
    assert locked
    assert all("--hash=sha256:" in entry for entry in locked.values())
    assert "://" not in (REQUIREMENTS / name).read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("part", "whole"),
    [
        ("jobs.lock", "advise.lock"),
        ("advise.lock", "dev.lock"),
        ("trainer.lock", "online.lock"),
        ("online.lock", "trainer-dev.lock"),
        ("trainer-dev.lock", "trainer-bench.lock"),
        ("readers.lock", "readers-torch.lock"),
    ],
)
def test_a_lock_holds_all_of_the_one_before_it_at_the_same_versions(part: str, whole: str) -> None:
    # The set-up takes an environment made from the whole as good for the part, too.
    less, more = _locked(part), _locked(whole)
    assert {name: _version(entry) for name, entry in less.items()}.items() <= {
        name: _version(entry) for name, entry in more.items()
    }.items()


def test_the_jars_for_spark_are_of_the_version_of_pyspark() -> None:
    # Spark refuses neither another version nor a second one: it fails somewhere in a run.
    version = _version(_locked("join-bench.lock")["pyspark"])
    spark = [jar.coordinate for jar in read_lock()["spark"] if "spark" in jar.coordinate.group]
    assert {jar.version for jar in spark} == {version}


def test_every_lock_has_its_source() -> None:
    assert sorted(path.stem + ".lock" for path in REQUIREMENTS.glob("*.in")) == LOCKS
