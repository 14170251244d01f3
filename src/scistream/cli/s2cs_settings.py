"""From the options of ``s2cs start`` to a configuration; says all at once what is missing.

What the reference implementation could do and this version cannot is refused, never ignored.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import click

from scistream.cli.auth_options import find_authenticators
from scistream.cli.data_server_options import CONTAINER_NAMES, NATIVE_NAMES
from scistream.cli.s2cs_addresses import find_addresses
from scistream.config import (
    AuditSettings,
    ControlServerConfig,
    OnFailure,
    PortRange,
    StopMode,
    is_loopback,
)
from scistream.core.endpoint import Endpoint
from scistream.core.session import Encryption
from scistream.core.table import Limits
from scistream.errors import ConfigurationError
from scistream.user_folders import UserFolder

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The options' values, as `scistream.cli.s2cs_options` names them."""

    listen: str | None
    port: int | None
    bind_host: str | None
    advertise_host: str | None
    bind_lan_host: str | None
    advertise_lan_host: str | None
    listener_host: str | None
    port_range: str
    advertise_port_range: str | None
    certificate: Path
    private_key: Path
    tls: bool
    data_server: str
    native_settings: Mapping[str, object]
    container_settings: Mapping[str, object]
    auth: Sequence[str]
    auth_settings: Mapping[str, Mapping[str, str]] = field(repr=False)  # with secrets
    listen_mtls: str | None
    policy: Path | None
    audit: Path | None
    audit_max_mb: float
    audit_keep: int
    audit_failure: str
    calls_per_user: int
    calls_per_address: int
    insecure: bool
    encryption: str
    capacity_mbps: float
    pace: bool
    hello_timeout_s: float
    update_timeout_s: float
    early_hello_timeout_s: float
    queue_timeout_s: float
    idle_timeout_s: float
    lifetime_s: float
    state_dir: Path | None
    no_state: bool
    orphan_limit_s: float
    on_terminate: str
    drain_timeout_s: float

    def config(self) -> ControlServerConfig:
        """Return the configuration.

        Raises
        ------
        ConfigurationError
            Something is missing or cannot be used; the message names all that is.
        """
        if self.no_state and self.state_dir is not None:
            raise click.UsageError("--state-dir and --no-state exclude each other")
        problems: list[str] = []
        authenticators = find_authenticators(self.auth, self.auth_settings, problems)
        problems += self._tls_problems()
        addresses = find_addresses(
            listen=self.listen,
            port=self.port,
            listener_ip=self.listener_host,
            bind=self.bind_host,
            advertise=self.advertise_host,
            bind_lan=self.bind_lan_host,
            advertise_lan=self.advertise_lan_host,
        )
        problems += addresses.problems
        if not self.tls and not self.insecure and not is_loopback(addresses.listen.host):
            problems.append(
                f"--ssl=False on {addresses.listen.host} would send the users' tokens over the network in "
                "the clear; leave it out, listen on 127.0.0.1, or insist with --insecure"
            )
        data_server = self._find_data_server(problems)
        if problems:
            raise ConfigurationError(_joined(problems))
        if not self.tls:
            logger.warning("TLS is off: tokens for %s are readable on the way", addresses.listen)
        state_dir = self.state_dir
        if state_dir is None and not self.no_state:
            state_dir = default_state_dir(addresses.listen.port)
        return ControlServerConfig(
            listen=addresses.listen,
            tls=self.tls,
            certificate=self.certificate,
            private_key=self.private_key,
            bind_host=addresses.bind,
            advertise_host=addresses.advertise,
            bind_lan_host=addresses.bind_lan,
            advertise_lan_host=addresses.advertise_lan,
            ports=PortRange.parse(self.port_range),
            advertised_ports=PortRange.parse(self.advertise_port_range)
            if self.advertise_port_range
            else None,
            data_server=data_server,
            data_server_settings={**self.native_settings, **self.container_settings},
            authenticators=authenticators,
            listen_mtls=None if self.listen_mtls is None else Endpoint.parse(self.listen_mtls),
            policy=self.policy,
            audit=self._audit_settings(),
            calls_per_user=self.calls_per_user,
            calls_per_address=self.calls_per_address,
            encryption=Encryption(self.encryption),
            capacity_mbps=self.capacity_mbps,
            pace=self.pace,
            limits=Limits(
                hello_timeout_s=self.hello_timeout_s,
                update_timeout_s=self.update_timeout_s,
                early_hello_timeout_s=self.early_hello_timeout_s,
                queue_timeout_s=self.queue_timeout_s,
                idle_timeout_s=self.idle_timeout_s,
                lifetime_s=self.lifetime_s,
            ),
            state_dir=state_dir,
            orphan_limit_s=self.orphan_limit_s,
            on_terminate=StopMode(self.on_terminate),
            drain_timeout_s=self.drain_timeout_s,
        )

    def _audit_settings(self) -> AuditSettings | None:
        if self.audit is None:
            return None
        return AuditSettings(
            path=self.audit,
            max_bytes=int(self.audit_max_mb * 1_000_000),
            keep=self.audit_keep,
            on_failure=OnFailure(self.audit_failure),
        )

    def _tls_problems(self) -> list[str]:
        files = (("--certificate", self.certificate), ("--private-key", self.private_key))
        missing = [f"{option} {path}" for option, path in files if self.tls and not path.exists()]
        if not missing:
            return []
        return [
            f"{' and '.join(missing)}: not there; make both with 's2cs cert --host NAME --out "
            f"{self.certificate.parent}', NAME being what users call this host"
        ]

    def _find_data_server(self, problems: list[str]) -> str:
        """Return the installed data server that is meant, whatever the case of its letters."""
        from scistream.dataserver.registry import installed

        names = installed()
        found = [one for one in names if one.lower() == self.data_server.strip().lower()]
        if found:
            if self.native_settings and found[0] != "native":
                given = ", ".join(NATIVE_NAMES[name] for name in self.native_settings)
                problems.append(f"{given}: only the native data server can do that, not {found[0]}")
            if self.container_settings and not found[0].endswith("container"):
                given = ", ".join(CONTAINER_NAMES[name] for name in self.container_settings)
                problems.append(
                    f"{given}: that is for data servers in containers (--type HaproxyContainer, ...), not "
                    f"for {found[0]}"
                )
            return found[0]
        problems.append(
            f"data server {self.data_server!r} is not available in this installation; there are: "
            f"{', '.join(names) or 'none'}; the default is native, which needs nothing else installed"
        )
        return ""


def _joined(problems: list[str]) -> str:
    if len(problems) == 1:
        return problems[0]
    return f"{len(problems)} things are to be mended: " + "; ".join(
        f"({number}) {problem}" for number, problem in enumerate(problems, 1)
    )


def default_state_dir(port: int) -> Path | None:
    """Return where a control server on `port` keeps its sessions if nothing is said; None for port 0.

    systemd sets ``STATE_DIRECTORY`` for a unit with that option; the rest is the XDG specification.

    Raises
    ------
    ConfigurationError
        This user has no home.
    """
    if given := os.environ.get("STATE_DIRECTORY"):
        return Path(given.split(":")[0])
    if port == 0:  # the next start would not find it again
        return None
    directory = UserFolder.STATE.path()
    if directory is None:
        raise ConfigurationError(
            "this user has no home where sessions could be kept; give --state-dir DIR, or --no-state"
        )
    return directory / f"s2cs-{port}"
