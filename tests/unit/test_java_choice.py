"""Which Java is taken. The Javas here are scripts that answer as one does."""

from __future__ import annotations

from pathlib import Path

import pytest

from services import java


def _java(home: Path, version: str) -> Path:
    """Make something that answers ``-version`` like a Java; return its home."""
    executable = home / "bin" / "java"
    executable.parent.mkdir(parents=True)
    executable.write_text(
        "#!/bin/sh\n"
        f'echo "    java.home = {home}" >&2\n'
        f'echo "    java.specification.version = {version}" >&2\n',
        encoding="utf-8",
    )
    executable.chmod(0o755)
    return home


def _environment(java_home: Path | None = None, on_path: Path | None = None) -> dict[str, str]:
    environment = {"PATH": "" if on_path is None else str(on_path / "bin")}
    if java_home is not None:
        environment["JAVA_HOME"] = str(java_home)
    return environment


@pytest.mark.parametrize("version", ["17", "21"])
def test_a_supported_java_on_path_is_taken(tmp_path: Path, version: str) -> None:
    home = _java(tmp_path / "jdk", version)
    assert java.find_java_home(_environment(on_path=home)) == home


def test_java_home_goes_before_path(tmp_path: Path) -> None:
    first, second = _java(tmp_path / "a", "21"), _java(tmp_path / "b", "17")
    assert java.find_java_home(_environment(java_home=first, on_path=second)) == first


@pytest.mark.parametrize("version", ["1.8", "11", "24"])
def test_an_unsuitable_java_home_is_passed_over(tmp_path: Path, version: str) -> None:
    old, good = _java(tmp_path / "old", version), _java(tmp_path / "good", "17")
    assert java.find_java_home(_environment(java_home=old, on_path=good)) == good


def test_a_broken_java_home_is_passed_over(tmp_path: Path) -> None:
    good = _java(tmp_path / "good", "17")
    environment = _environment(java_home=tmp_path / "gone", on_path=good)
    assert java.find_java_home(environment) == good


def test_without_a_suitable_one_the_bundled_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(java, "bundled_java_home", lambda: tmp_path)
    old = _java(tmp_path / "old", "11")
    assert java.find_java_home(_environment(on_path=old)) == tmp_path


def test_bundled_can_be_forced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(java, "bundled_java_home", lambda: tmp_path)
    good = _java(tmp_path / "good", "17")
    environment = _environment(on_path=good) | {java.CHOICE_VARIABLE: "bundled"}
    assert java.find_java_home(environment) == tmp_path


def test_none_at_all_says_what_to_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(java, "bundled_java_home", lambda: None)
    with pytest.raises(java.JavaError, match="make setup"):
        java.find_java_home(_environment())


def test_an_unknown_choice_is_an_error() -> None:
    with pytest.raises(java.JavaError, match="'system'; it can be 'bundled' or unset"):
        java.find_java_home({java.CHOICE_VARIABLE: "system", "PATH": ""})
