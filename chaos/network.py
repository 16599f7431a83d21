"""Network namespaces joined by a bridge, between which packets can be dropped.

A namespace sends the packets for another to the hardware address that it believes to be the
other's. A false permanent entry in its table of neighbours makes it send them to nobody. So a cut
needs no packet filter, drops silently, can be one-way, and can part any pair while both still reach
everybody else. Whoever runs the harness reaches all of them at any time.
"""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

from services.place import Place

_NOBODY = "02:00:00:00:00:00"


_LINKS = Path("/sys/class/net")


class Network:
    """Namespaces of this harness's own; they end with `close`."""

    def __init__(self) -> None:
        """Make the bridge. Raises OSError when the rights or the programs are missing."""
        self._number = _free_number()
        self._bridge = f"chaos{self._number}"
        self._addresses: dict[str, str] = {}
        self._cuts: list[tuple[str, str]] = []
        _ip("link", "add", self._bridge, "type", "bridge")
        try:
            _ip("address", "add", f"10.213.{self._number}.1/24", "dev", self._bridge)
            _ip("link", "set", self._bridge, "up")
        except OSError:
            self.close()
            raise

    def place(self, name: str) -> Place:
        """The namespace of that name, which is made when it is first asked for."""
        namespace = f"{self._bridge}-{name}"
        if name not in self._addresses:
            number = len(self._addresses) + 2
            self._addresses[name] = f"10.213.{self._number}.{number}"
            outside, inside = f"c{self._number}o{number}", f"c{self._number}i{number}"
            _ip("netns", "add", namespace)
            _ip("link", "add", outside, "type", "veth", "peer", "name", inside)
            _ip("link", "set", inside, "netns", namespace, "name", "eth0")
            _ip("link", "set", outside, "master", self._bridge, "up")
            _ip("-n", namespace, "link", "set", "lo", "up")
            _ip("-n", namespace, "address", "add", f"{self._addresses[name]}/24", "dev", "eth0")
            _ip("-n", namespace, "link", "set", "eth0", "up")
        return Place(self._addresses[name], ("ip", "netns", "exec", namespace))

    def cut(self, some: Iterable[str], others: Iterable[str], *, one_way: bool = False) -> None:
        """Drop what `some` send to `others`, and the other way round unless it is `one_way`."""
        for one in some:
            for other in others:
                self._deafen(one, other)
                if not one_way:
                    self._deafen(other, one)

    def heal(self) -> None:
        """Take all cuts away."""
        for sender, receiver in self._cuts:
            place = ("-n", f"{self._bridge}-{sender}")
            _ip(*place, "neighbour", "delete", self._addresses[receiver], "dev", "eth0")
        self._cuts = []

    def close(self) -> None:
        """Delete the namespaces and the bridge; nothing may run in them any more."""
        links = [f"c{self._number}o{number + 2}" for number in range(len(self._addresses))]
        for words in (
            # a socket that is still dying holds its namespace, and with it both ends of the link
            *(("link", "delete", link) for link in links),
            *(("netns", "delete", f"{self._bridge}-{name}") for name in self._addresses),
            ("link", "delete", self._bridge),
        ):
            subprocess.run(["ip", *words], capture_output=True, check=False)

    def _deafen(self, sender: str, receiver: str) -> None:
        if (sender, receiver) not in self._cuts:
            place = ("-n", f"{self._bridge}-{sender}")
            address = self._addresses[receiver]
            words = ("lladdr", _NOBODY, "dev", "eth0", "nud", "permanent")
            _ip(*place, "neighbour", "replace", address, *words)
            self._cuts.append((sender, receiver))


def _free_number() -> int:
    """A number that no other harness on this machine has."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        raise OSError("network namespaces need root, and the program ip")
    for number in range(1, 250):
        of_it = itertools.chain(_LINKS.glob(f"chaos{number}"), _LINKS.glob(f"c{number}o*"))
        if not any(of_it):
            return number
    raise OSError("there are too many bridges of other harnesses")


def _ip(*words: str) -> None:
    done = subprocess.run(["ip", *words], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise OSError(f"ip {' '.join(words)}: {done.stderr.strip()}")
