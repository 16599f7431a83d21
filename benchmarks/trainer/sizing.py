"""What a model of 10 TB would need, from what was measured here. Paper, not a measurement."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

#: Of float32.
_VALUE_BYTES = 4
GIGA, TERA = 1e9, 1e12


@dataclass(frozen=True)
class Assumed:
    """Bytes, and bytes a second, in powers of ten."""

    parameters: float = 10 * TERA
    memory: float = 512 * GIGA
    use: float = 0.7
    copies: int = 2
    network: float = 25e9 / 8
    servers_a_machine: int = 16
    samples_per_s: float = 1e6


@dataclass(frozen=True)
class Measured:
    """Of one process. `row_bytes`: memory of a row, mean over a table's growth, by model.

    `values`: of a row, by model. `pull`, `push`, `copy`: bytes on the wire a key with one value.
    `write`, `read`: checkpoint, bytes/s. `checkpoint`: bytes on disk a byte in memory. `rate`:
    samples/s of a core.
    """

    row_bytes: dict[str, float]
    values: dict[str, int]
    pull: float
    push: float
    copy: float
    keys_a_sample: float
    write: float
    read: float
    checkpoint: float
    rate: float


@dataclass(frozen=True)
class Need:
    """`tables`: bytes of one copy. `network`: of all machines, bits a second, as sent."""

    title: str
    rows: float
    tables: float
    memory: float
    machines: int
    a_machine: float
    network: float
    network_a_machine: float
    cores: int
    checkpoint_s: float
    restore_s: float
    copy_again_s: float


def needs(measured: Measured, assumed: Assumed) -> list[Need]:
    """For the three things that "10 TB of parameters" can mean."""
    count = assumed.parameters / _VALUE_BYTES
    values = measured.values["fm"]
    of_tables = assumed.parameters / measured.row_bytes["lr"]
    return [
        _need("10 TB of tables, all included (LR)", "lr", of_tables, measured, assumed),
        _need("10 TB of weights, LR", "lr", count, measured, assumed),
        _need(f"10 TB of weights, FM of {values - 1}", "fm", count / values, measured, assumed),
    ]


def _need(title: str, model: str, rows: float, measured: Measured, assumed: Assumed) -> Need:
    tables = rows * measured.row_bytes[model]
    memory = tables * assumed.copies
    machines = ceil(memory / (assumed.memory * assumed.use))
    own = tables / machines
    # each value more is 4 bytes more, in each of the three
    more = 3 * _VALUE_BYTES * (measured.values[model] - measured.values["lr"])
    a_key = measured.pull + measured.push + (assumed.copies - 1) * measured.copy + more
    network = 8 * a_key * measured.keys_a_sample * assumed.samples_per_s

    def at(rate: float) -> float:
        # all servers of a machine at once, but no faster than its network
        return min(rate * assumed.servers_a_machine, assumed.network)

    disk = own * measured.checkpoint
    return Need(
        title,
        rows,
        tables,
        memory,
        machines,
        own,
        network,
        network / machines,
        ceil(assumed.samples_per_s / measured.rate),
        disk / at(measured.write),
        disk / at(measured.read),
        assumed.copies * own / assumed.network,
    )


def assumptions(assumed: Assumed) -> list[str]:
    """In words."""
    return [
        f"Machines of {assumed.memory / GIGA:.0f} GB, {assumed.use:.0%} of it for tables;"
        f" {assumed.copies} copies of every shard (a primary and its backup).",
        f"{assumed.network * 8 / 1e9:.0f} Gbit/s a machine, to other machines and to storage;"
        f" {assumed.servers_a_machine} servers (processes) a machine, which write and read their"
        " own shards at once, each at the rate measured here, together at most at that of the"
        " network.",
        f"{assumed.samples_per_s / 1e6:.0f} M samples/s are trained on, of as many keys as here."
        " Cores: for workers, at the rate of one process on one core here; the servers' are not"
        " counted.",
        "A value more in a row is 4 bytes more in a pull, a push and a copy. Headers of ZeroMQ and"
        " TCP are not counted.",
        "A lost machine: all that it held (primaries and backups) is copied to one that takes its"
        " place.",
        "Keys are hashes of 64 bits, of which n have n^2 / 2^65 pairs that are equal: some 170,000"
        " at 2.5 * 10^12 keys.",
    ]
