"""A small internet in network namespaces: hosts with addresses of their own, a router with a firewall, real cables.

Every namespace, device and address is made here, is named after this process, and is removed at the end; what a killed
run left behind is removed by the next one. Nothing outside these namespaces is touched but ``/etc/netns``, from where
``ip netns exec`` takes each host's own ``/etc/hosts``.

Addresses are of the range for benchmarks (198.18.0.0/15) and unique local ones (fd66::/16).
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from common.errors import StateError
from simulations.cable import NAMESPACES, TUN, Cable, End, Quality

ROUTER = "router"
HOSTS_FILES = Path("/etc/netns")
TOOLS = ("ip", "nft")
PROXY_VARIABLES = ("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy")
COMMAND_S = 20.0


def why_not_here() -> str:
    """Why this machine can make no such network; empty where it can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing:
        return f"not installed: {', '.join(missing)} (packages iproute2, nftables)"
    return "" if TUN.exists() else f"no {TUN}"


@dataclass(frozen=True)
class Pass:
    """One direction that the firewall lets through: connections from ``source`` to a TCP port of ``target``."""

    source: str
    target: str
    port: int


@dataclass
class Network:
    """Hosts around one router; use it in a ``with`` statement.

    Parameters
    ----------
    hosts : sequence of str
        Their names; each is a namespace with one cable to the router.
    allowed : sequence of Pass
        Everything else is dropped without a word.
    names : mapping
        Host -> (name -> address), for its own ``/etc/hosts``.
    quality : Quality
        Of every cable; a path from host to host crosses two.
    """

    hosts: Sequence[str]
    allowed: Sequence[Pass]
    quality: Quality = field(default_factory=Quality)
    names: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    cables: dict[str, Cable] = field(default_factory=dict, init=False)
    _stack: ExitStack = field(default_factory=ExitStack, init=False)

    def address(self, host: str, *, version: int = 4) -> str:
        number = self.hosts.index(host) + 1
        return f"198.18.{number}.2" if version == 4 else f"fd66:{number}::2"

    def namespace(self, host: str) -> str:
        return f"fedrad-{os.getpid()}-{host}"

    def prefix(self, host: str, **environment: str) -> list[str]:
        """What stands before a command that is to run on a host, with variables of its own and no proxy of ours."""
        unset = [part for name in PROXY_VARIABLES for part in ("-u", name)]
        own = [f"{name}={value}" for name, value in environment.items()]
        return ["ip", "netns", "exec", self.namespace(host), "env", *unset, *own]

    def __enter__(self) -> Network:
        reason = why_not_here()
        if reason:
            raise StateError(reason)
        _remove_left_behind()
        with ExitStack() as stack:
            stack.callback(self._remove)
            for host in (ROUTER, *self.hosts):
                _ip("netns", "add", self.namespace(host))
                _in(self.namespace(host), "ip", "link", "set", "lo", "up")
            for setting in ("ipv4/ip_forward", "ipv6/conf/all/forwarding"):
                _in(self.namespace(ROUTER), "sh", "-c", f"echo 1 > /proc/sys/net/{setting}")
            for number, host in enumerate(self.hosts, start=1):
                self._lay_cable(host, number)
            _in(self.namespace(ROUTER), "nft", "-f", "-", text=self.firewall())
            for host in self.hosts:
                self._write_hosts_file(host)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def firewall(self) -> str:
        """The router's rules for nftables."""
        rules = "\n".join(
            f'    iifname "{rule.source}" {family} daddr {self.address(rule.target, version=version)} '
            f"tcp dport {rule.port} accept"
            for rule in self.allowed
            for family, version in (("ip", 4), ("ip6", 6))
        )
        return f"""table inet wall {{
  chain forward {{
    type filter hook forward priority 0; policy drop;
    ct state established,related accept
{rules}
  }}
  chain input {{
    type filter hook input priority 0; policy drop;
  }}
}}
"""

    def can_connect(self, source: str, target: str, port: int) -> bool:
        """True where a TCP connection from host to host comes about in two seconds."""
        code = f"import socket; socket.create_connection(({target!r}, {port}), 2).close()"
        command = [*self.prefix(source), sys.executable, "-c", code]
        done = subprocess.run(command, capture_output=True, check=False)  # noqa: S603  # this interpreter
        return done.returncode == 0

    def _lay_cable(self, host: str, number: int) -> None:
        inside, outside = self.namespace(host), self.namespace(ROUTER)
        self.cables[host] = Cable((End(inside, "wan"), End(outside, host)), self.quality, seed=number)
        for version, far, near in (
            (4, f"198.18.{number}.2/32", f"198.18.{number}.1/32"),
            (6, f"fd66:{number}::2/128", f"fd66:{number}::1/128"),
        ):
            last = ("nodad",) if version == 6 else ()
            _in(inside, "ip", f"-{version}", "address", "add", far, "dev", "wan", *last)
            _in(outside, "ip", f"-{version}", "address", "add", near, "dev", host, *last)
        for namespace, device in ((inside, "wan"), (outside, host)):
            _in(namespace, "ip", "link", "set", device, "addrgenmode", "none")  # no packets that nobody asked for
            _in(namespace, "ip", "link", "set", device, "up")
        for version, far in ((4, f"198.18.{number}.2/32"), (6, f"fd66:{number}::2/128")):
            _in(inside, "ip", f"-{version}", "route", "add", "default", "dev", "wan")
            _in(outside, "ip", f"-{version}", "route", "add", far, "dev", host)

    def _write_hosts_file(self, host: str) -> None:
        folder = HOSTS_FILES / self.namespace(host)
        folder.mkdir(parents=True)
        lines = [f"{address} {name}" for name, address in self.names.get(host, {}).items()]
        (folder / "hosts").write_text("\n".join(["127.0.0.1 localhost", *lines]) + "\n")
        (folder / "resolv.conf").write_text("")  # no name leads out of here

    def _remove(self) -> None:
        for cable in self.cables.values():
            cable.close()
        for host in (ROUTER, *self.hosts):
            _remove_namespace(self.namespace(host))


def _ip(*arguments: str) -> None:
    _run(["ip", *arguments])


def _in(namespace: str, *command: str, text: str = "") -> None:
    _run(["ip", "netns", "exec", namespace, *command], text=text)


def _run(command: Sequence[str], *, text: str = "") -> None:
    done = subprocess.run(  # noqa: S603  # the system's ip and nft, with arguments of this file
        command, input=text, text=True, capture_output=True, timeout=COMMAND_S, check=False
    )
    if done.returncode:
        raise StateError(f"{' '.join(command)}: {done.stderr.strip()}")


def _remove_namespace(name: str) -> None:
    command = ["ip", "netns", "delete", name]
    subprocess.run(command, capture_output=True, timeout=COMMAND_S, check=False)  # noqa: S603  # the system's ip
    shutil.rmtree(HOSTS_FILES / name, ignore_errors=True)


def _remove_left_behind() -> None:
    """Namespaces of runs whose process is gone."""
    folders = [path for parent in (NAMESPACES, HOSTS_FILES) if parent.exists() for path in parent.iterdir()]
    for name in {path.name for path in folders}:
        found = re.fullmatch(r"fedrad-(\d+)-\w+", name)
        if found and not Path("/proc", found[1]).exists():
            _remove_namespace(name)
