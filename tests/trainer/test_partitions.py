"""What docs/trainer.md promises when the network is cut, on processes that are really cut off.

The trainer's command with its workers and servers, each process in a network namespace of its own.
Only Ray is replaced (`chaos.trainer_places`), and time-outs are shorter.
"""

from __future__ import annotations

import contextlib
import random
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from chaos.network import Network
from chaos.trainer_cluster import STEPS_A_FILE, TrainerCluster, send, write_samples
from chaos.trainer_faults import (
    CutCoordinator,
    CutReplicas,
    CutServer,
    CutWorker,
    TrainerFault,
    TrainerScene,
)
from chaos.trainer_run import Reference, TrainerEra
from services.waiting import DeadlineError, wait_until
from tests.trainer import history, recording
from trainer.config.sections import StepsPer

PYTHON = Path(sys.executable)
#: As many steps a file as under BSP.
SSP = ("train.consistency=ssp", f"train.batch={4_096 // STEPS_A_FILE}")
Schedule = Sequence[TrainerFault]
#: For each form of `train.steps` a server that is replaced in the middle of a step, and more. What
#: the two have in common need not be cut twice.
BSP_FAULTS: Mapping[StepsPer, Sequence[TrainerFault]] = {
    "sample": [
        CutWorker("both", long=True),
        CutReplicas("back", long=True),
        CutServer("there", long=True),
    ],
    "batch": [CutServer("there", long=True), CutCoordinator("both", long=False)],
}
#: How often a story is told until the machine was fast enough for it.
_TRIES = 3
#: A push after a cut comes within milliseconds; none comes once all is learned.
_PUSH_DEADLINE_S = 10
_DEADLINE_S = 240


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    try:
        made = Network()
    except OSError as error:
        pytest.skip(f"no network namespaces here: {error}")
    yield made
    made.close()


@pytest.fixture(scope="module")
def stock(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stock")
    write_samples(folder, 8, python=PYTHON)
    return folder


def suffered(cluster: TrainerCluster, faults: Schedule, reference: Reference | None) -> list[int]:
    """Of each fault, how many keys differ from a run without faults."""
    era = TrainerEra(cluster, reference)
    rng = random.Random(1)
    era.begin()
    found = []
    for number, fault in enumerate(faults):
        for _ in range(_TRIES):
            found.append(era.suffer(number, fault, rng).difference.count)
            if not isinstance(fault, LosePrimary) or fault.was_told:
                break
        else:
            pytest.fail(f"{_TRIES} times the machine was too slow for: {fault.name}")
    return found


def problems(cluster: TrainerCluster) -> list[str]:
    """What the notes of its counting workers have against the promise."""
    return history.problems(
        history.read(cluster.folder),
        in_steps=False,
        final=recording.counts_in(cluster.checkpoints()[-1]),
        due=cluster.due,
        begins=recording.begins(cluster.log),
    )


@pytest.fixture
def clusters(
    tmp_path: Path, stock: Path, network: Network
) -> Iterator[Callable[..., TrainerCluster]]:
    made: list[TrainerCluster] = []

    def make(worker: str, *settings: str, plant: str = "") -> TrainerCluster:
        found = TrainerCluster(
            tmp_path / f"run-{len(made)}",
            stock,
            network,
            settings=settings,
            worker=f"tests.trainer.recording:{worker}",
            plant=f"tests.trainer.recording:{plant}" if plant else "",
            python=PYTHON,
        )
        made.append(found)
        return found

    yield make
    for each in made:
        each.close()


class LosePrimary(TrainerFault):
    """A primary is lost with pushes that its backup does not have, as it was cut off from it.

    It must end before its backup is given up (3 s). `was_told`: whether it did, so that the backup
    took over, and whether there were such pushes.
    """

    name = "a primary that was cut off from its backup ends"

    def __init__(self, *, acknowledged: bool = False) -> None:
        """`acknowledged`: whether the primary must have acknowledged one, which it must not do."""
        self._acknowledged = acknowledged

    def make(self, scene: TrainerScene) -> str:
        self._before = before = scene.cluster.now()
        primary, self._backup = before.server(before.primaries[0]), before.backups[0]
        assert self._backup is not None
        scene.cluster.cut([primary.place], [before.server(self._backup).place])
        cut_at = time.monotonic()
        # a worker sends to all shards before it listens: what another one has answered, shard 0
        # has been sent
        shards = {0} if self._acknowledged else before.primaries.keys() - {0}
        self.was_told = False
        with contextlib.suppress(DeadlineError):
            self.was_told = wait_until(
                lambda: recording.has_answered(scene.cluster.folder, shards, cut_at),
                _PUSH_DEADLINE_S,
                "a push after the cut",
                every_s=0.02,
            )
        send(primary.pid, signal.SIGKILL)
        return primary.name

    def undo(self, scene: TrainerScene) -> None:
        before = self._before

        def is_replaced() -> bool:
            scene.cluster.check()
            now = scene.cluster.now()
            return (now.generation, now.primaries[0]) != (before.generation, before.primaries[0])

        wait_until(is_replaced, _DEADLINE_S, "another primary", every_s=0.02)
        scene.wait_until_it_goes_on()
        now = scene.cluster.now()
        # without its backup the shard would have gone back to a checkpoint, or to a third server
        took_over = (now.generation, now.primaries[0]) == (before.generation, self._backup)
        self.was_told = self.was_told and took_over
        scene.cluster.heal()


@pytest.mark.thorough
@pytest.mark.timeout(900)
def test_reads_and_writes_keep_the_promise(clusters: Callable[..., TrainerCluster]) -> None:
    cluster = clusters("Counting", *SSP)
    suffered(
        cluster,
        [
            CutWorker("back", long=False),
            CutReplicas("both", long=False),
            CutReplicas("there", long=True),
            LosePrimary(),
            CutCoordinator("both", long=True),
        ],
        None,
    )
    assert problems(cluster) == []


@pytest.mark.thorough
@pytest.mark.timeout(900)
@pytest.mark.parametrize("steps", BSP_FAULTS)
def test_under_bsp_no_cut_shows_in_a_single_bit(
    steps: StepsPer,
    clusters: Callable[..., TrainerCluster],
    tmp_path: Path,
    stock: Path,
    network: Network,
) -> None:
    faults, settings = BSP_FAULTS[steps], (f"train.steps={steps}",)
    reference = Reference(tmp_path, stock, len(faults) + 1, network, PYTHON, settings)
    cluster = clusters("Recorded", *settings)
    assert suffered(cluster, faults, reference) == [0] * len(faults)
    notes = history.read(cluster.folder)
    assert sum(map(len, notes)) > 1_000
    assert history.of_primaries(notes) == []


@pytest.mark.thorough
@pytest.mark.timeout(900)
def test_a_planted_fault_is_found(clusters: Callable[..., TrainerCluster]) -> None:
    cluster = clusters("Counting", *SSP, plant="answers_before_the_backup_has_it")
    suffered(cluster, [LosePrimary(acknowledged=True)], None)
    lost = ("were acknowledged before", "in the end")
    assert any(words in problem for problem in problems(cluster) for words in lost)
