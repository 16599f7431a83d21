"""A trainer with workers and replicated servers, on which faults are made."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from chaos import trainer_end
from chaos.network import Network
from chaos.trainer_plan import ENDED, PLAN, STATUS, UNREACHABLE, Member, Plan, Status
from services.place import LOOPBACK, Place
from services.waiting import wait_until

ROOT = Path(__file__).parents[1]
#: The Python of the trainer's environment.
PYTHON = ROOT / ".venv-trainer" / "bin" / "python"
COORDINATOR = "co"
#: Places for servers and for workers: one that is replaced leaves its place to a later one.
_PLACES = 11

#: Instead of what docs/trainer.md says (10, 5, 20, 20, 300, 120 and 60 s), so that a fault costs
#: seconds.
TIMES: Mapping[str, float] = {
    "trainer.server.client.AGAIN_S": 1,
    "trainer.server.client.AGAIN_AT_MOST_S": 4,
    "trainer.server.channel._HEARTBEAT_S": 1,
    "trainer.server.channel._BROKEN_AFTER_S": 4,
    "trainer.run.coordinator.BACKUP_DEADLINE_S": 3,
    "trainer.run.coordinator.APART_S": 15,
    "trainer.run.servers.ANSWER_DEADLINE_S": 12,
    "trainer.run.worker.CUT_OFF_AFTER_S": 8,
}
WORKERS = 2
_BATCH = 32
#: Steps that a file has. Under BSP each worker's part of a batch is one.
STEPS_A_FILE = 4_096 // _BATCH * WORKERS
SETTINGS = (
    "train.consistency=bsp",
    "train.servers=3",
    f"train.workers={WORKERS}",
    f"train.batch={_BATCH}",
    "model.type=fm",
    "output.checkpoint_every=500ms",
    "output.export_every=1s",
    "output.resume=true",
    "output.keep_checkpoints=5",
    "evaluation.by=[]",
    "log.format=json",
    # the rates of the first samples depend on how many files there are when it starts
    "model.start=zero",
    "samples.follow=true",
    "samples.poll=100ms",
)
_DEADLINE_S = 180


class TrainerCluster:
    """`folder`: of one run. `stock`: samples that `write_samples` made, of which `release` gives
    some to the trainer.

    `worker`, `plant`: see `Plan`. `python`: of the trainer's environment.
    """

    def __init__(
        self,
        folder: Path,
        stock: Path,
        network: Network | None,
        *,
        settings: Sequence[str] = (),
        worker: str = "",
        plant: str = "",
        python: Path = PYTHON,
    ) -> None:
        self.folder, self._stock, self.network, self._python = folder, stock, network, python
        self._lives = self._released = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._watcher: subprocess.Popen[bytes] | None = None
        self.model = folder / "model"
        folder.mkdir(parents=True)
        for name in ("pipeline.toml", "trainer.toml"):
            shutil.copy(stock / name, folder / name)
        plan = Plan(
            coordinator=self._place(COORDINATOR).address,
            servers=[self._words(f"s{n}") for n in range(_PLACES)],
            workers=[self._words(f"w{n}") for n in range(_PLACES)],
            settings=(*SETTINGS, f"output.path={self.model}", *settings),
            times=TIMES,
            worker=worker,
            plant=plant,
        )
        (folder / PLAN).write_text(json.dumps(plan.as_json()))

    def _place(self, name: str) -> Place:
        return LOOPBACK if self.network is None else self.network.place(name)

    def _words(self, name: str) -> list[str]:
        place = self._place(name)
        return [place.address, *place.prefix]

    # -- samples -----------------------------------------------------------------------------------

    def release(self, files: int) -> None:
        """Give the trainer more of the stock, in its order, until it has so many files."""
        files_of_stock = sorted((self._stock / "out").rglob("*.parquet"))
        for path in files_of_stock[self._released : files]:
            to = self.folder / path.relative_to(self._stock)
            to.parent.mkdir(parents=True, exist_ok=True)
            hidden = to.with_name(f".{to.name}")
            shutil.copy(path, hidden)
            hidden.rename(to)
        self._released = max(self._released, files)

    # -- processes ---------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the trainer, or start it again: it goes on from its last checkpoint."""
        if self._watcher is None:
            self._watcher = trainer_end.watch(self.folder)
        self._lives += 1
        words = [*self._place(COORDINATOR).prefix, str(self._python)]
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                [
                    *(*words, "-m", "chaos.trainer_process", "coordinator"),
                    *(str(self.folder), str(self._lives)),
                ],
                cwd=ROOT,
                env=environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def stop(self) -> int:
        """SIGTERM, until it has saved; returns its exit code."""
        assert self._process is not None
        self._process.terminate()
        return self._process.wait(_DEADLINE_S)

    def kill_coordinator(self) -> None:
        """SIGKILL. Servers and workers go on."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def kill_everything(self) -> None:
        """SIGKILL of all that were ever started."""
        if self._process is not None:
            self.kill_coordinator()
        trainer_end.kill(self.folder)

    def end(self, members: Iterable[Member]) -> None:
        """SIGKILL of zombies, as Ray ends them when it reaches them again."""
        for member in members:
            if trainer_end.runs_in(self.folder, member.pid):
                send(member.pid, signal.SIGKILL)

    def close(self) -> None:
        """End all processes. The network stays."""
        self.kill_everything()
        if self._watcher is not None:
            self._watcher.communicate()
            self._watcher = None
        if self.network is not None:
            self.network.heal()

    def check(self) -> None:
        """Raises RuntimeError if the trainer has ended."""
        if self._process is not None and self._process.poll() is not None:
            end = self.log.read_text(errors="replace")[-2_000:]
            raise RuntimeError(f"the trainer ended ({self._process.returncode}): {end}")

    @property
    def log(self) -> Path:
        """The coordinator's, since it was last started."""
        return self.folder / f"coordinator.{self._lives}.log"

    # -- what it says ------------------------------------------------------------------------------

    def status(self) -> Status | None:
        """The coordinator's; None while it has not said any since it was started."""
        try:
            found = Status.of_json(json.loads((self.folder / STATUS).read_text()))
        except OSError:
            return None
        return found if found.life == str(self._lives) else None

    def now(self) -> Status:
        """The status, once there is one. Raises DeadlineError, RuntimeError."""

        def told() -> Status | None:
            self.check()
            return self.status()

        return wait_until(told, _DEADLINE_S, "the trainer to start", every_s=0.05)

    def checkpoints(self) -> list[Path]:
        """The complete ones, the newest last."""
        return sorted((self.model / "checkpoints").glob("step-*"))

    def saved(self) -> int:
        """The step of the newest checkpoint; 0 if there is none."""
        found = self.checkpoints()
        return int(found[-1].name.removeprefix("step-")) if found else 0

    @property
    def due(self) -> int:
        """The step of a checkpoint that has all that was released."""
        return self._released * STEPS_A_FILE

    # -- faults ------------------------------------------------------------------------------------

    def say_ended(self, members: Iterable[Member]) -> None:
        """The coordinator takes them for ended, though they may go on."""
        self._add(ENDED, members)

    def say_unreachable(self, members: Iterable[Member]) -> None:
        """The coordinator cannot end them."""
        self._add(UNREACHABLE, members)

    def _add(self, name: str, members: Iterable[Member]) -> None:
        with (self.folder / name).open("a") as file:
            file.writelines(f"{member.name}\n" for member in members)

    def cut(self, some: Iterable[str], others: Iterable[str], *, one_way: bool = False) -> None:
        """Between places, see `Network.cut`."""
        assert self.network is not None
        self.network.cut(list(some), list(others), one_way=one_way)

    def heal(self) -> None:
        """All packets get through again."""
        assert self.network is not None
        self.network.heal()


def environment() -> dict[str, str]:
    """Of the trainer's processes: they share the machine."""
    return os.environ | {"OMP_NUM_THREADS": "1", "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}


def send(pid: int, number: signal.Signals) -> None:
    """A signal, to a process that may have ended."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def write_samples(folder: Path, files: int, python: Path = PYTHON) -> None:
    """A stock of so many files of 4,096 samples. Raises RuntimeError."""
    _call(python, "samples", str(folder), str(files))


def compare(*folders: Path, python: Path = PYTHON) -> dict[str, Any]:
    """See `chaos.trainer_parameters.compare`. Raises RuntimeError."""
    found: dict[str, Any] = json.loads(_call(python, "compare", *map(str, folders)))
    return found


def _call(python: Path, *words: str) -> str:
    command = [str(python), "-m", "chaos.trainer_process", *words]
    done = subprocess.run(
        command, cwd=ROOT, env=environment(), capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr}")
    return done.stdout
