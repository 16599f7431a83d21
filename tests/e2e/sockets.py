"""Where the processes of a test listen."""

from __future__ import annotations

import ipaddress

import psutil


def listening(*process_ids: int) -> list[str]:
    """The addresses on which these processes, and what they have started, take connections."""
    addresses = []
    for process_id in process_ids:
        parent = psutil.Process(process_id)
        for process in (parent, *parent.children(recursive=True)):
            addresses += [
                connection.laddr.ip
                for connection in process.net_connections(kind="inet")
                if connection.status == psutil.CONN_LISTEN
            ]
    return addresses


def is_loopback(address: str) -> bool:
    """Of IPv4 addresses in IPv6 form, too, which is how Java listens."""
    parsed = ipaddress.ip_address(address)
    mapped = parsed.ipv4_mapped if isinstance(parsed, ipaddress.IPv6Address) else None
    return (mapped or parsed).is_loopback
