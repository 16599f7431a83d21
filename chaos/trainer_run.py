"""A run of the trainer's faults, each held against a run without any.

The input is the same in each era: files of samples, one more for each fault. Under BSP what the
trainer has learned of so many files is a function of them, to the bit.
"""

from __future__ import annotations

import random
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from chaos.network import Network
from chaos.result import Difference, Result
from chaos.trainer_cluster import PYTHON, STEPS_A_FILE, TrainerCluster, compare, write_samples
from chaos.trainer_faults import TrainerFault, TrainerScene
from services.waiting import wait_until

_DEADLINE_S = 300
#: An era ends with it.
END = "trainer: the end of a run, and its export"


class Reference:
    """What the trainer has learned of each number of files when nothing goes wrong."""

    def __init__(
        self,
        folder: Path,
        stock: Path,
        files: int,
        network: Network | None,
        python: Path = PYTHON,
        settings: Sequence[str] = (),
    ) -> None:
        """Train on so many files of the stock; takes about half a minute."""
        self.files, self._kept, self._python = files, folder / "reference", python
        cluster = TrainerCluster(
            folder / "without-faults", stock, network, settings=settings, python=python
        )
        try:
            cluster.start()
            for number in range(1, files + 1):
                cluster.release(number)
                _wait_until_caught_up(cluster)
                shutil.copytree(cluster.checkpoints()[-1], self._kept / f"{number}-files")
            _stop(cluster)
            shutil.copytree(cluster.model / "serving", self._kept / "serving")
        finally:
            cluster.close()

    def difference(self, cluster: TrainerCluster, files: int, *, ended: bool = False) -> Difference:
        """Of the newest checkpoint, which has so many files; at the end of the export, too."""
        found = compare(
            self._kept / f"{files}-files",
            cluster.checkpoints()[-1],
            *((self._kept / "serving", cluster.model / "serving") if ended else ()),
            python=self._python,
        )
        return Difference(found["samples"], wrong_or_twice=tuple(found["differing"]))


class TrainerEra:
    """From the start of a trainer to its end."""

    def __init__(self, cluster: TrainerCluster, reference: Reference | None) -> None:
        """`reference`: None where nothing is to be compared."""
        self.cluster, self._reference, self._files = cluster, reference, 0

    def begin(self) -> None:
        """Start it, until it has learned a file."""
        self._release_a_file()
        self.cluster.start()
        _wait_until_caught_up(self.cluster)

    def _release_a_file(self) -> None:
        self._files += 1
        self.cluster.release(self._files)

    def suffer(self, number: int, fault: TrainerFault, rng: random.Random) -> Result:
        """Make one fault while it learns a file, wait until it has learned all of it, compare."""
        cluster, scene = self.cluster, TrainerScene(self.cluster, rng)
        moment = rng.randrange(STEPS_A_FILE // 16, STEPS_A_FILE // 2)
        begun = cluster.now().batches
        self._release_a_file()
        wait_until(
            lambda: cluster.now().batches >= begun + moment,
            _DEADLINE_S,
            "some batches of the file",
            every_s=0.02,
        )
        before = cluster.now()
        start = time.monotonic()
        what = fault.make(scene)
        detected = None
        if fault.shows:
            wait_until(
                lambda: fault.has_shown(scene, before),
                _DEADLINE_S,
                f"a sign of: {fault.name}",
                every_s=0.05,
            )
            detected = time.monotonic() - start
        fault.undo(scene)
        scene.wait_until_it_goes_on()
        running = time.monotonic() - start
        _wait_until_caught_up(cluster)
        caught_up = time.monotonic() - start
        difference = Difference(0)
        if self._reference is not None:
            difference = self._reference.difference(cluster, self._files)
        cluster.end(scene.zombies)
        return Result(number, fault.name, what, detected, running, caught_up, difference)

    def end(self, number: int) -> Result:
        """Learn the rest, and stop; compare the last checkpoint and the export."""
        assert self._reference is not None
        start = time.monotonic()
        self._files = self._reference.files
        self.cluster.release(self._files)
        _wait_until_caught_up(self.cluster)
        running = time.monotonic() - start
        _stop(self.cluster)
        caught_up = time.monotonic() - start
        difference = self._reference.difference(self.cluster, self._files, ended=True)
        return Result(number, END, "SIGTERM", None, running, caught_up, difference)


def run(
    folder: Path,
    network: Network | None,
    faults: Sequence[type[TrainerFault]],
    *,
    first: int,
    seed: int,
    faults_an_era: int,
    ends_at: float,
    told: Callable[[str], None],
) -> Iterator[Result]:
    """Make the faults in this order, a run of the trainer for so many of them.

    `first`: the number of the first one. No other fault is begun after `ends_at`, seconds of
    `time.monotonic`.
    """
    if time.monotonic() > ends_at:
        return
    rng = random.Random(f"{seed}/trainer")
    told("the trainer without faults")
    files, stock = 1 + min(faults_an_era, len(faults)), folder / "stock"
    write_samples(stock, files)
    reference = Reference(folder, stock, files, network)
    number = first
    for begin in range(0, len(faults), faults_an_era):
        if time.monotonic() > ends_at:
            return
        name = f"era-{begin // faults_an_era + 1}"
        told(f"{name} of the trainer")
        era = TrainerEra(TrainerCluster(folder / name, stock, network), reference)
        try:
            era.begin()
            for fault in faults[begin : begin + faults_an_era]:
                if time.monotonic() > ends_at:
                    break
                told(f"{number}: {fault.name}")
                yield era.suffer(number, fault(), rng)
                number += 1
            told(f"{number}: {END}")
            yield era.end(number)
            number += 1
        finally:
            era.cluster.close()


def _wait_until_caught_up(cluster: TrainerCluster) -> None:
    """Until all that was released is learned and saved, and every shard has a backup."""

    def caught_up() -> bool:
        cluster.check()
        status = cluster.status()
        return cluster.saved() == cluster.due and status is not None and status.whole

    wait_until(caught_up, _DEADLINE_S, "the trainer to catch up", every_s=0.05)


def _stop(cluster: TrainerCluster) -> None:
    code = cluster.stop()
    # of a trainer that was interrupted, and has saved
    if code != 130:
        raise RuntimeError(f"the trainer ended with exit code {code}")
