"""What docs/trainer.md promises when the network is cut, on processes that are really cut off.

The trainer's command with its workers and servers, each process in a network namespace of its own.
Only Ray is replaced (`chaos.trainer_places`), and time-outs are shorter.
"""

from __future__ import annotations

import random
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
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
from tests.trainer import history, recording

PYTHON = Path(sys.executable)
#: As many steps a file as under BSP.
SSP = ("train.consistency=ssp", f"train.batch={4_096 // STEPS_A_FILE}")
Schedule = Sequence[TrainerFault]


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
    return [era.suffer(number, fault, rng).difference.count for number, fault in enumerate(faults)]


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
    """A primary is lost with pushes that its backup does not have, as it was cut off from it."""

    name = "a primary that was cut off from its backup ends"

    def make(self, scene: TrainerScene) -> str:
        status = scene.cluster.now()
        primary, number = status.server(status.primaries[0]), status.backups[0]
        assert number is not None
        scene.cluster.cut([primary.place], [status.server(number).place])
        # all wait now: less than until the backup is given up
        time.sleep(1)
        send(primary.pid, signal.SIGKILL)
        return primary.name

    def undo(self, scene: TrainerScene) -> None:
        scene.wait_until_it_goes_on()
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
def test_under_bsp_no_cut_shows_in_a_single_bit(
    clusters: Callable[..., TrainerCluster], tmp_path: Path, stock: Path, network: Network
) -> None:
    faults = [
        CutWorker("both", long=True),
        CutReplicas("back", long=True),
        CutServer("there", long=True),
        CutCoordinator("both", long=False),
    ]
    reference = Reference(tmp_path, stock, len(faults) + 1, network, python=PYTHON)
    cluster = clusters("Recorded")
    assert suffered(cluster, faults, reference) == [0] * len(faults)
    notes = history.read(cluster.folder)
    assert sum(map(len, notes)) > 1_000
    assert history.of_primaries(notes) == []


@pytest.mark.thorough
@pytest.mark.timeout(900)
def test_a_planted_fault_is_found(clusters: Callable[..., TrainerCluster]) -> None:
    cluster = clusters("Counting", *SSP, plant="answers_before_the_backup_has_it")
    suffered(cluster, [LosePrimary()], None)
    assert problems(cluster) != []
