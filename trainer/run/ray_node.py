"""A Ray of this run's own, on this machine: on loopback only, in a folder that goes with it."""

from __future__ import annotations

import fcntl
import logging
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import ray
import ray._private.services
from ray._raylet import AuthenticationTokenLoader  # type: ignore[attr-defined]

from trainer.run import watchdog
from trainer.run.runner import RunError

_PREFIX = "stitch-"
#: Ray's sockets are in `<folder>/r/session_2026-11-25_22-23-59_918911_4194304/sockets/`; the path
#: of a Unix socket has at most 107 bytes.
_SOCKET = "/r/session_2026-11-25_22-23-59_918911_4194304/sockets/plasma_store_12"
_MOST_PATH = 107
_LONGEST = _MOST_PATH - len(_SOCKET) - len(f"/{_PREFIX}12345678")
_STOP_S = 30.0
#: Ray gives a node 30 s to come up, which cannot be set. The first start on a machine with much
#: other work may take longer; the next one finds Ray's files in memory.
_STARTS = 3
_TOO_SLOW = "timed out during startup"

_log = logging.getLogger(__name__)


def connect(address: str) -> None:
    """Joins a Ray cluster. Raises RunError."""
    _init(address=address)


def started(processes: int) -> LocalRay:
    """A Ray for so many servers and workers; see `LocalRay`. Raises RunError."""
    for left in reversed(range(_STARTS)):
        try:
            return LocalRay(processes)
        except RunError as error:
            if _TOO_SLOW not in str(error) or not left:
                raise
            _log.warning("Ray did not come up within its 30 s; it is started again")
    raise AssertionError("unreachable")


class LocalRay:
    """Starts a Ray for `processes` servers and workers. Raises RunError.

    It listens on 127.0.0.1 only, and asks for a token that is made for this run, unless the user
    has set one of RAY_AUTH_MODE, RAY_AUTH_TOKEN and RAY_AUTH_TOKEN_PATH.
    """

    def __init__(self, processes: int) -> None:
        self.folder = _new_folder()
        self._watchdog = _watched(self.folder)
        self._environment = ExitStack()
        own: dict[str, str | None] = {watchdog.MARK: self.folder.name}
        if not any(name.startswith("RAY_AUTH_") for name in os.environ):
            # Ray asks for a token by default, and would put it into the home directory. It sets the
            # mode itself, if that is not set; it is reset with the other variables.
            own |= {"RAY_AUTH_MODE": None, "RAY_AUTH_TOKEN_PATH": str(_token(self.folder))}
        self._environment.enter_context(_environment(own))
        AuthenticationTokenLoader.instance().reset_cache()
        try:
            with _unreplaced_loopback(), _blocked_sigterm():
                _init(
                    address="local",
                    num_cpus=processes,
                    include_dashboard=False,
                    _node_ip_address="127.0.0.1",
                    # Ray lets everybody read its folder, so that is inside of ours
                    _temp_dir=str(self.folder / watchdog.SESSIONS),
                    object_store_memory=200 << 20,
                )
        except RunError:
            self.stop()
            raise

    def stop(self) -> None:
        """Ends it, with all its processes, and removes its folder."""
        ray.shutdown()
        self._environment.close()
        AuthenticationTokenLoader.instance().reset_cache()
        assert self._watchdog.stdin is not None
        self._watchdog.stdin.close()
        try:
            self._watchdog.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            # it goes on without us
            return


def _init(**options: Any) -> None:
    # what these would write is for Ray's own log; here a person reads
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    with _kept_handlers():
        try:
            ray.init(
                namespace="trainer",
                log_to_driver=False,
                logging_level=logging.ERROR,
                **options,
            )
        except Exception as error:  # of many kinds, and from Ray's inside
            lines = str(error).strip().splitlines() or [type(error).__name__]
            where = options["address"]
            what = "Ray does not start" if where == "local" else f"no Ray cluster at {where!r}"
            raise RunError(f"{what}: {type(error).__name__}: {lines[0]}") from error


# -- signals ---------------------------------------------------------------------------------------


@contextmanager
def _kept_handlers() -> Iterator[None]:
    """Ray replaces the handler of SIGTERM by one that exits at once; ours saves first."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [(number, signal.getsignal(number)) for number in numbers]
    try:
        yield
    finally:
        for number, handler in before:
            if handler is not None:
                signal.signal(number, handler)


@contextmanager
def _blocked_sigterm() -> Iterator[None]:
    """Processes that are started meanwhile never get SIGTERM (Ray does the same with SIGINT).

    So a SIGTERM to the whole process group or control group, as systemd sends it, reaches the
    coordinator alone. It saves with the help of the others, and ends them then.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


# -- loopback --------------------------------------------------------------------------------------


@contextmanager
def _unreplaced_loopback() -> Iterator[None]:
    """`ray.init` replaces 127.0.0.1 by an address that other machines can reach; not here.

    Ray's processes listen on loopback only if the node's address is 127.0.0.1 (`ray::IsLocalhost`
    in its C++ sources), and on all interfaces otherwise. There is no option for that, so the
    function that replaces it is replaced. `tests/trainer/test_processes.py` looks at the sockets.
    """
    services = ray._private.services
    before = services.resolve_ip_for_localhost
    services.resolve_ip_for_localhost = lambda host: host
    try:
        yield
    finally:
        services.resolve_ip_for_localhost = before


# -- the folder ------------------------------------------------------------------------------------


def _new_folder() -> Path:
    """A folder that only this user can read, with a short path. Raises RunError.

    Also removes folders of runs whose watchdog was killed with them.
    """
    bases = [os.environ.get("RAY_TMPDIR"), tempfile.gettempdir(), "/tmp", "/var/tmp", "/dev/shm"]
    for base in dict.fromkeys(b for b in bases if b and len(os.fsencode(b)) <= _LONGEST):
        try:
            folder = tempfile.mkdtemp(prefix=_PREFIX, dir=base)
        except OSError:
            continue
        _remove_abandoned(Path(base), but=Path(folder))
        return Path(folder)
    raise RunError(
        "Ray needs a folder for its sockets: set RAY_TMPDIR to a folder that can be written to and"
        f" whose path has at most {_LONGEST} bytes"
    )


def _remove_abandoned(base: Path, but: Path) -> None:
    for folder in base.glob(f"{_PREFIX}*"):
        try:
            if folder == but or folder.stat().st_uid != os.getuid():
                continue
            with (folder / watchdog.LOCK).open("r+") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                watchdog.end_all(folder)
                shutil.rmtree(folder, ignore_errors=True)
        except OSError:
            continue  # in use, or just being made, or not of this program


def _token(folder: Path) -> Path:
    path = folder / "token"
    path.touch(mode=0o600)
    path.write_text(secrets.token_hex(32))
    return path


@contextmanager
def _environment(values: dict[str, str | None]) -> Iterator[None]:
    """Environment variables, for this process and those that it starts; None: not set."""
    before = {name: os.environ.get(name) for name in values}
    _set(values)
    try:
        yield
    finally:
        _set(before)


def _set(values: dict[str, str | None]) -> None:
    for name, value in values.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def _watched(folder: Path) -> subprocess.Popen[bytes]:
    """The watchdog of a folder, once it is there."""
    process = subprocess.Popen(
        [sys.executable, watchdog.__file__, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    assert process.stdout is not None
    process.stdout.readline()
    return process
