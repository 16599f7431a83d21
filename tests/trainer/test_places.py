"""Where containers run it: no home, a read-only project, a random user id, full disks, two at once.

What needs another user or a small file system is for root on Linux; elsewhere it is skipped.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.trainer.data import Traffic, write
from tests.trainer.runs import unstamped
from trainer import caches, checkpoint
from trainer.disk import LockedError, WriteError, locked, naming, replace, replacing
from trainer.train import main

ROOT = Path(__file__).parents[2]
DEADLINE_S = 180.0
NOBODY = 64_321  # in no passwd file
TRAFFIC = Traffic(rows=8_192, files=2, hours=2, users=400, catalogue=300)
is_root = pytest.mark.skipif(
    os.name != "posix" or os.getuid() != 0, reason="needs root, to be another user or to mount"
)
can_mount = pytest.mark.skipif(
    shutil.which("unshare") is None
    or subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False).returncode != 0,
    reason="needs `unshare -m`, to mount a small file system",
)


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """Readable by all, which pytest's own folders are not."""
    root = Path(tempfile.mkdtemp(prefix="places-"))
    root.chmod(0o755)
    write(TRAFFIC, root)
    try:
        yield root
    finally:
        shutil.rmtree(root)


def command(folder: Path, output: Path, *settings: str) -> list[str]:
    ours = (f"output.path={output}", "train.batch=1024", "output.resume=true", *settings)
    sets = [part for text in ours for part in ("--set", text)]
    return [
        *(sys.executable, "-m", "trainer.train", "--config", str(folder / "trainer.toml")),
        *sets,
    ]


def ran(arguments: list[str], environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        arguments,
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "COLUMNS": "200"} | environment,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )


# -- users and homes -------------------------------------------------------------------------------


@is_root
@pytest.mark.skipif(shutil.which("setpriv") is None, reason="needs setpriv")
def test_no_home_a_project_that_is_read_only_and_a_user_that_nobody_knows(folder: Path) -> None:
    """numba ended it at import: "cannot cache function: no locator available"."""
    as_user = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
    if subprocess.run(
        [*as_user, sys.executable, "-c", "import numba"],
        check=False,
        capture_output=True,
        cwd=ROOT,
        env={"NUMBA_CACHE_DIR": "/tmp"},
    ).returncode:
        pytest.skip("this Python cannot be run by another user")
    temporary = folder / "tmp"
    temporary.mkdir()
    temporary.chmod(0o777)
    for home in ({}, {"HOME": "/nonexistent"}, {"HOME": "/"}):
        output = temporary / f"model-{len(home.get('HOME', ''))}"
        done = ran([*as_user, *command(folder, output)], {"TMPDIR": str(temporary), **home})
        assert done.returncode == 0, done.stderr
        assert "Traceback" not in done.stderr
        assert "atplotlib" not in done.stderr
        assert checkpoint.find(output / "checkpoints")
    # what was compiled is kept for the next run, where nobody else can write
    (shared,) = temporary.glob("sample-stitch-*")
    assert shared.stat().st_mode & 0o777 == 0o700
    assert list((shared / "numba").rglob("*.nbi"))


def environment_after(monkeypatch: pytest.MonkeyPatch, sources: Path, **given: str) -> list[str]:
    """NUMBA_CACHE_DIR and MPLCONFIGDIR."""
    for name in ("HOME", "XDG_CONFIG_HOME", caches.NUMBA, caches.MATPLOTLIB):
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(caches, "_tell_numba", lambda _: None)
    caches.prepare(sources)
    return [os.environ.get(caches.NUMBA, ""), os.environ.get(caches.MATPLOTLIB, "")]


def test_usual_places_are_used_where_they_can_be(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    numba, matplotlib = environment_after(monkeypatch, tmp_path, HOME=str(tmp_path))
    assert (Path(numba).parent, matplotlib) == (tmp_path / "__pycache__", "")
    set_by_hand = {caches.NUMBA: "/somewhere", caches.MATPLOTLIB: "/else"}
    nowhere = Path("/proc/nowhere")
    numba, matplotlib = environment_after(monkeypatch, nowhere, HOME="/proc/none", **set_by_hand)
    assert (Path(numba).parent, matplotlib) == (Path("/somewhere"), "/else")
    # a process that is started from this one stays there
    again, _ = environment_after(monkeypatch, nowhere, HOME="/proc/none", **{caches.NUMBA: numba})
    assert again == numba


_MODULES = {
    "inner.py": "from numba import njit\n@njit(inline='always')\ndef inner(): return {}\n",
    "outer.py": (
        "from numba import njit\nfrom inner import inner\n"
        "@njit(cache=True)\ndef outer(): return inner()\n"
    ),
}
_RUN = (
    "import sys; from pathlib import Path; from trainer import caches\n"
    "caches.prepare(Path(sys.argv[1])); sys.path.insert(0, sys.argv[1])\n"
    "from outer import outer; print(outer(), sum(outer.stats.cache_hits.values()))"
)


def test_a_change_in_another_module_is_compiled(tmp_path: Path) -> None:
    """numba looks at the file of the function alone, and `inner` is compiled into it."""
    found = []
    for number in (1, 1, 2):
        for name, text in _MODULES.items():
            path, written = tmp_path / name, text.format(number)
            if not path.exists() or path.read_text() != written:
                path.write_text(written)
        made = subprocess.run(
            [sys.executable, "-c", _RUN, str(tmp_path)],
            check=True,
            capture_output=True,
            text=True,
            cwd=ROOT,
        )
        found.append(made.stdout.split())
    # compiled; from the cache; compiled again
    assert found == [["1", "0"], ["1", "1"], ["2", "0"]]


def test_what_other_sources_have_left_is_removed_when_it_is_old(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    place = tmp_path / "__pycache__"
    kept = {"sources-new": 0, "other": 9}
    for name, days in {**kept, "sources-old": 8}.items():
        (place / name).mkdir(parents=True)
        (place / name / "outer.nbi").touch()
        moment = time.time() - days * 86_400
        os.utime(place / name, (moment, moment))
    environment_after(monkeypatch, tmp_path, HOME=str(tmp_path))
    assert {path.name for path in place.iterdir()} == set(kept)


def test_what_somebody_else_has_made_is_not_used(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """numba unpickles what is in its cache."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    nowhere = Path("/proc/nowhere")
    theirs = tmp_path / f"sample-stitch-{os.getuid()}"
    theirs.mkdir(mode=0o777)
    theirs.chmod(0o777)
    numba, matplotlib = environment_after(monkeypatch, nowhere, HOME="/proc/none")
    assert Path(numba).parents[1] != theirs
    assert Path(numba).parents[1].stat().st_mode & 0o077 == 0
    theirs.rmdir()
    theirs.symlink_to(tmp_path / "elsewhere")
    numba, _ = environment_after(monkeypatch, nowhere, HOME="/proc/none")
    assert Path(numba).parents[1] != theirs
    theirs.unlink()
    numba, matplotlib = environment_after(monkeypatch, nowhere, HOME="/proc/none")
    assert [Path(numba).parent, Path(matplotlib)] == [theirs / "numba", theirs / "matplotlib"]


# -- full disks ------------------------------------------------------------------------------------


@is_root
@can_mount
@pytest.mark.parametrize("kib", [16, 80, 112])
def test_a_disk_that_is_full(kib: int, folder: Path, tmp_path: Path) -> None:
    """At each size something else does not fit: one line with its path, and what was saved."""
    disk = tmp_path / "disk"
    disk.mkdir()
    result = tmp_path / "left.json"
    look = (
        "import json,sys; from pathlib import Path; from trainer import checkpoint;"
        "from trainer.serving.format import NothingPublishedError\n"
        "from trainer.serving.snapshot import Snapshot\n"
        f"root = Path({str(disk)!r}) / 'model'\n"
        "found = checkpoint.find(root / 'checkpoints')\n"
        "[checkpoint.read_shards(p, checkpoint.read_manifest(p)) for p in found]\n"
        "try:\n"
        "    number = Snapshot.open(root / 'serving').number\n"
        "except NothingPublishedError:\n"
        "    number = None\n"
        "left = [str(p.relative_to(root)) for p in root.rglob('*')]\n"
        f"Path({str(result)!r}).write_text(json.dumps([len(found), number, left]))"
    )
    train = " ".join(f"'{part}'" for part in command(folder, disk / "model"))
    script = (
        f"mount -t tmpfs -o size={kib}k none '{disk}' && {train}; code=$?;"
        f" '{sys.executable}' -c \"$LOOK\" || exit 99; exit $code"
    )
    done = ran(["unshare", "-m", "bash", "-c", script], {"LOOK": look, "HOME": str(tmp_path)})
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    first, second = unstamped(done.stderr).strip().splitlines()[-2:]
    assert first.startswith(f"train: {disk}/model")
    assert first.endswith(
        "No space left on device; free some space there, or set output.path to another disk"
    )
    checkpoints, number, left = json.loads(result.read_text())
    if checkpoints or number is not None:
        assert second.startswith("train: saved before, and whole: ")
        assert ("checkpoint step-000000000008" in second) == bool(checkpoints)
        assert ("export 0 of " in second) == (number is not None)
    else:
        assert second == "train: nothing was saved before"
    # and nothing half-written takes its room
    assert not [name for name in left if name.endswith(".tmp") or "/.step-" in name]


def test_an_error_of_the_system_gets_its_path() -> None:
    path = Path("/some/where")
    full = "/some/where: No space left on device; free some space"
    with pytest.raises(WriteError, match=full), naming(path):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with pytest.raises(WriteError, match=r"/some/where: odd$"), naming(path):
        raise OSError("odd")
    # the innermost path is the one that matters
    with pytest.raises(WriteError, match=r"^/inner: "), naming(path), naming(Path("/inner")):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))


def test_an_output_that_cannot_be_written_to(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    arguments = command(folder, tmp_path / "file/model")[3:]
    assert main(arguments) == 1
    error = unstamped(capsys.readouterr().err).strip()
    assert error == f"train: {tmp_path / 'file/model'}: Not a directory"


# -- two trainers ----------------------------------------------------------------------------------


def test_two_trainers_on_one_output(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "model"
    holder = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys; from pathlib import Path; from trainer.disk import locked\n"
            "with locked(Path(sys.argv[1])):\n    print('held', flush=True); sys.stdin.read()",
            str(output),
        ],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        arguments = command(folder, output)[3:]
        assert main(arguments) == 1
        error = unstamped(capsys.readouterr().err).strip()
        assert error == (
            f"train: {output} is in use by another trainer (process {holder.pid} on"
            f" {socket.gethostname()}): stop that one, or set another output.path"
        )
        assert not (output / "checkpoints").exists()
    finally:
        # the lock goes with the process, however it ends
        holder.kill()
        holder.communicate(timeout=DEADLINE_S)
    assert main(arguments) == 0


def test_a_lock_is_given_back(tmp_path: Path) -> None:
    with locked(tmp_path), pytest.raises(LockedError), locked(tmp_path):
        raise AssertionError
    with locked(tmp_path):
        assert (
            tmp_path / ".lock"
        ).read_text() == f"process {os.getpid()} on {socket.gethostname()}\n"


def test_a_finished_output_is_gone_on_with_or_begun_anew_as_asked(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = command(folder, tmp_path / "model")[3:]
    assert main(arguments) == 0
    (first,) = checkpoint.find(tmp_path / "model/checkpoints")
    before = (first / "manifest.json").stat().st_mtime_ns
    capsys.readouterr()
    # nothing is new: nothing is learned twice
    assert main(arguments) == 0
    told = capsys.readouterr()
    assert "resumed from step-000000000008: 8,192 samples were learned before" in told.err
    assert "8,192 (0 now)" in told.out
    assert (first / "manifest.json").stat().st_mtime_ns == before
    assert main([*arguments, "--set", "output.resume=false"]) == 0
    told = capsys.readouterr()
    assert "beginning anew (output.resume = false): the 1 checkpoints of an earlier run" in told.err
    assert (first / "manifest.json").stat().st_mtime_ns > before


def test_a_write_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "file"
    replace(path, b"before")

    def fill() -> None:
        with replacing(path) as file:
            file.write(b"half")
            raise OSError(errno.ENOSPC, "full")

    with pytest.raises(WriteError, match="full"):
        fill()
    assert path.read_bytes() == b"before"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
