"""Bounds the connections to the gRPC port on which no valid token has come, as `inference/http/door.py` does for HTTP.

gRPC's core closes what does not speak HTTP/2 or makes no call for a while, but it counts connections in all only, and
then refuses newcomers: the first to come lock out the others. The core owns its sockets, so they are found among the
descriptors of this process, and one too many is shut down, which the core takes for a client that hangs up.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import os
import socket
import urllib.parse

import psutil

from luthierd.rpc.places import Place, Places

SWEEP_INTERVAL_S = 0.5

MEMBERS_PER_SWEEP = 4096
"""Addresses that are kept before those without a connection are forgotten."""

Address = tuple[str, int]


class Connections:
    """At most `count` connections without a valid token, as of the last sweep."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._strangers = Places(count)
        self._places: dict[Address, Place] = {}
        self._members: set[Address] = set()

    def authorised(self, peer: str) -> None:
        """A call with a valid token came from `peer`, as a gRPC context names it."""
        if (address := address_of(peer)) is None:
            return
        self._members.add(address)
        if place := self._places.pop(address, None):
            self._strangers.leave(place)

    async def run(self, port: int) -> None:
        """Sweeps again and again, while there are descriptors enough for a surplus."""
        own = psutil.Process()
        while True:
            await asyncio.sleep(SWEEP_INTERVAL_S)
            with contextlib.suppress(psutil.Error):
                if own.num_fds() > self._count or len(self._members) > MEMBERS_PER_SWEEP:
                    self.sweep(await asyncio.to_thread(connections_of, port))

    def sweep(self, found: dict[Address, int]) -> None:
        """Shuts down what is too much of the connections `found`: descriptors by the address of the peer."""
        self._members &= found.keys()
        for address in self._places.keys() - found.keys():
            self._strangers.leave(self._places.pop(address))
        for address in sorted(found.keys() - self._places.keys() - self._members, key=found.__getitem__):
            place = Place(address[0], lambda address=address: self._shut(address, found[address]))  # type: ignore[misc]
            self._places[address] = place
            self._strangers.enter(place)

    def _shut(self, address: Address, descriptor: int) -> None:
        del self._places[address]
        with contextlib.suppress(OSError), socket.socket(fileno=os.dup(descriptor)) as connection:
            if _plain(*connection.getpeername()[:2]) == address:  # the descriptor may be another's by now
                connection.shutdown(socket.SHUT_RDWR)


def connections_of(port: int) -> dict[Address, int]:
    """The open connections to a port of this process."""
    found = {}
    for one in psutil.Process().net_connections("tcp"):
        if one.raddr and one.laddr.port == port and one.fd >= 0:
            found[_plain(one.raddr.ip, one.raddr.port)] = one.fd
    return found


def address_of(peer: str) -> Address | None:
    """The address in `ipv4:127.0.0.1:5000` or `ipv6:%5B::1%5D:5000`; None for other kinds."""
    kind, _, rest = urllib.parse.unquote(peer).partition(":")
    host, _, port = rest.rpartition(":")
    return _plain(host.strip("[]"), int(port)) if kind in ("ipv4", "ipv6") else None


def _plain(host: str, port: int) -> Address:
    """IPv4 in the form of IPv6 is IPv4."""
    address = ipaddress.ip_address(host.partition("%")[0])
    return str(getattr(address, "ipv4_mapped", None) or address), port
