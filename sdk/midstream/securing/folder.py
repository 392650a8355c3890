"""The folder of a broker with accounts: what is missing in it is made, and nothing that a client holds is lost.

===========================  ===========================================================================
``roles.toml``               who may do what, for the operator to edit
``authority/``               the certificate and the key that sign all others: the key must not leave it
``broker/``                  the broker's own, with its configuration, ready to be installed as a service
``clients/NAME/``            what one client needs, ready to be copied to it
===========================  ===========================================================================

A key is never written again. A run that is cut off is finished by the next.
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import hmac
import ipaddress
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from midstream.communication.credentials import AUTHORITY_FILE, CERTIFICATE_FILE, CLIENT_FILE, KEY_FILE, pool_file
from midstream.communication.roles import Role
from midstream.errors import InputError
from midstream.files import read_at_most, write_whole
from midstream.securing import certificates
from midstream.securing.certificates import CertificateError, Pair
from midstream.securing.configuration import (
    CONFIGURATION_FILE,
    SECURITY_FILE,
    Listener,
    configuration,
    dynamic_security,
    installed_configuration,
)
from midstream.securing.members import (
    HEAD,
    MAX_ROLES_BYTES,
    ROLES_FILE,
    Member,
    Members,
    check_name,
    parse_members,
    with_member,
    without_member,
)

LOOPBACK: Final = "127.0.0.1"
LOOPBACK_HOSTS: Final = ("localhost", LOOPBACK, "::1")
WARN_DAYS: Final = 30

_MAX_PEM_BYTES: Final = 64 << 10
_LABEL = "[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_DNS_NAME = re.compile(rf"(?=.{{1,253}}\Z){_LABEL}(\.{_LABEL})*")


@dataclass(frozen=True, slots=True)
class SecureFolder:
    """A folder that is complete; `open` makes it so. ``notes`` are for the operator, such as what expires soon.

    ``secrets`` are those of the pools, by name: each follows from the authority's key.
    """

    path: Path
    members: tuple[Member, ...]
    hosts: tuple[str, ...]
    notes: tuple[str, ...]
    secrets: Mapping[str, str] = field(repr=False)

    @classmethod
    def open(
        cls,
        path: str | Path,
        *,
        devices: Sequence[str] = (),
        gateways: Sequence[str] = (),
        hosts: Sequence[str] = (),
        remove: Sequence[str] = (),
        renew: bool = False,
        now: datetime.datetime | None = None,
    ) -> SecureFolder:
        """Make the folder, or complete the one that is there, with these clients more and ``remove`` less.

        ``hosts`` are names and addresses that the broker's certificate has to be good for, beside those it is good
        for already. ``renew`` makes all certificates but the authority's anew, for the same keys.

        Raises InputError for a folder that is damaged or not one of these, for a wrong name or host, and for a
        certificate that has expired; MissingExtraError without the package cryptography.
        """
        wanted: dict[str, Role] = {**dict.fromkeys(devices, "device"), **dict.fromkeys(gateways, "gateway")}
        if both := set(devices) & set(gateways):
            raise InputError(f"{min(both)!r} cannot be a device and a gateway; take two names")
        workshop = _Workshop(Path(path), now or datetime.datetime.now(datetime.UTC))
        return workshop.complete(wanted, [check_host(host) for host in hosts], remove, renew)

    @property
    def authority(self) -> Path:
        """The certificate that a client trusts."""
        return self.path / "broker" / AUTHORITY_FILE

    def client(self, name: str) -> Path:
        """The folder to copy to this client."""
        return self.path / "clients" / name

    def broker_files(self, folder: str, listeners: Sequence[Listener]) -> dict[str, bytes]:
        """What mosquitto needs, by file name, to run from this folder: its configuration and all that it names."""
        own = self.path / "broker"
        return {
            **{name: _read(own / name) for name in (AUTHORITY_FILE, CERTIFICATE_FILE, KEY_FILE)},
            SECURITY_FILE: self._dynamic_security(),
            CONFIGURATION_FILE: configuration(folder, listeners).encode(),
        }

    def write_installable(self, listeners: Sequence[Listener]) -> None:
        """Complete ``broker/`` to what a service needs, as it is to lie in /etc/mosquitto/midstream."""
        folder = self.path / "broker"
        with _told(folder):
            write_whole(folder / CONFIGURATION_FILE, installed_configuration(listeners).encode(), private=True)
            write_whole(folder / SECURITY_FILE, self._dynamic_security(), private=True)

    def _dynamic_security(self) -> bytes:
        return dynamic_security(
            {member.name: member.rights(self.secrets.__getitem__) for member in self.members}
        ).encode()


def check_host(host: str) -> str:
    """A name or an address that clients reach the broker by, as it is; raises InputError where it is neither."""
    address = _address(host)
    if address is None:
        if _DNS_NAME.fullmatch(host):
            return host
        raise InputError(f"host {host[:80]!r} is neither a host name nor an address")
    if address.is_unspecified or address.is_multicast:
        raise InputError(
            f"host {host!r} is not an address that clients can connect to; give the name or address by which they "
            "reach this machine"
        )
    return host


def listen_address(hosts: Sequence[str]) -> str | None:
    """Where a broker for these hosts listens: loopback without any, at the one address, or everywhere (None)."""
    if all(map(_is_loopback, hosts)):
        return LOOPBACK
    return hosts[0] if len(hosts) == 1 and _address(hosts[0]) is not None else None


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _is_loopback(host: str) -> bool:
    address = _address(host)
    return host == "localhost" if address is None else address.is_loopback


class _Workshop:
    """Completes one folder at one time."""

    def __init__(self, path: Path, now: datetime.datetime) -> None:
        self._path = path
        self._now = now
        self._notes: list[str] = []

    def complete(self, wanted: dict[str, Role], hosts: list[str], remove: Sequence[str], renew: bool) -> SecureFolder:
        for name in (*wanted, *remove):
            check_name(name)
        self._check_folder()
        authority = self._authority()
        members = self._members(wanted, remove)
        secrets = {pool: _pool_secret(authority, pool) for member in members for pool in member.pools}
        for member in members:
            self._client(member, authority, renew)
            self._pool_secrets(member, secrets)
        all_hosts = self._broker(authority, hosts, renew)
        return SecureFolder(self._path, tuple(members), all_hosts, tuple(self._notes), secrets)

    def _check_folder(self) -> None:
        """Make the folder, or see that it is one of ours and nobody else's."""
        path, marker = self._path, self._path / ROLES_FILE
        with _told(path):
            if path.exists() and not path.is_dir():
                raise InputError(f"{path} is not a folder; name a new or an empty one")
            if not marker.exists():
                if path.is_dir() and any(path.iterdir()):
                    raise InputError(
                        f"{path} is not empty, and has no {ROLES_FILE}: midstream broker --secure did not make it. "
                        "Name a new or an empty folder"
                    )
                path.mkdir(mode=0o700, parents=True, exist_ok=True)
                path.chmod(0o700)
                write_whole(marker, HEAD.encode(), private=True)
            if os.name == "posix" and path.stat().st_mode & 0o077:
                raise InputError(f"others can look into {path}, where keys lie; shut it: chmod 700 {path}")

    def _authority(self) -> Pair:
        folder = self._path / "authority"
        pair = self._pair(
            folder, lambda key: certificates.authority_certificate(key, "midstream broker's authority", self._now)
        )
        with _damaged(folder):
            certificates.check(pair, pair.certificate)
            end = certificates.expires(pair.certificate)
        if end <= self._now:
            raise InputError(
                f"the authority in {folder} expired on {end:%Y-%m-%d}, and every certificate with it; make a new "
                "folder, and give every client its new credentials"
            )
        self._note_end("the authority", end, "make a new folder before that")
        return pair

    def _members(self, wanted: dict[str, Role], remove: Sequence[str]) -> list[Member]:
        marker = self._path / ROLES_FILE
        with _told(marker):
            text = read_at_most(marker, MAX_ROLES_BYTES).decode(errors="replace")
        try:
            known = parse_members(text)
            for name in remove:
                if name not in known.removed:
                    text = without_member(text, name)
            for name, role in wanted.items():
                self._check_wanted(known, name, role)
                if name not in known.members:
                    text = with_member(text, role, name)
            members = list(parse_members(text).members.values())
        except InputError as error:
            raise InputError(f"{marker}: {error}") from None
        with _told(marker):
            write_whole(marker, text.encode(), private=True)
        return members

    def _check_wanted(self, known: Members, name: str, role: Role) -> None:
        member = known.members.get(name)
        if member is not None and member.role != role:
            raise InputError(f"{name!r} is a {member.role}; take another name for the {role}")
        if member is None and (name in known.removed or (self._path / "clients" / name).exists()):
            raise InputError(
                f"{name!r} was removed: whoever still holds its key would be let in again. Take another name"
            )

    def _client(self, member: Member, authority: Pair, renew: bool) -> None:
        folder = self._path / "clients" / member.name
        pair = self._pair(
            folder, lambda key: certificates.client_certificate(authority, key, member.name, self._now), renew
        )
        with _damaged(folder):
            certificates.check(pair, authority.certificate)
            if certificates.common_name(pair.certificate) != member.name:
                raise CertificateError("the certificate is another client's")
            end = certificates.expires(pair.certificate)
        self._note_end(f"the certificate of {member.role} {member.name}", end, "--renew, and copy it to the client")
        with _told(folder):
            _write_new(folder / AUTHORITY_FILE, authority.certificate)
            client = f'# midstream: whose credentials these are.\nname = "{member.name}"\nrole = "{member.role}"\n'
            _write_new(folder / CLIENT_FILE, client.encode())

    def _pool_secrets(self, member: Member, secrets: Mapping[str, str]) -> None:
        folder = self._path / "clients" / member.name
        with _told(folder):
            for pool in member.pools:
                _write_new(folder / pool_file(pool), f"{secrets[pool]}\n".encode())

    def _broker(self, authority: Pair, wanted: list[str], renew: bool) -> tuple[str, ...]:
        folder = self._path / "broker"

        def issue(key: bytes) -> bytes:
            return certificates.server_certificate(authority, key, hosts, self._now)

        hosts = list(LOOPBACK_HOSTS)
        with _damaged(folder):
            if (folder / CERTIFICATE_FILE).exists():
                hosts = certificates.hosts(_read(folder / CERTIFICATE_FILE))
        known = len(hosts)
        hosts += [host for host in dict.fromkeys(wanted) if host not in hosts]
        pair = self._pair(folder, issue, renew or len(hosts) > known)
        with _damaged(folder):
            certificates.check(pair, authority.certificate)
            end = certificates.expires(pair.certificate)
        if end <= self._now:
            raise InputError(
                f"the broker's certificate in {folder} expired on {end:%Y-%m-%d}; make it anew, for the same key, with "
                "--renew"
            )
        self._note_end("the broker's certificate", end, "--renew")
        with _told(folder):
            _write_new(folder / AUTHORITY_FILE, authority.certificate)
        return tuple(hosts)

    def _pair(self, folder: Path, issue: Callable[[bytes], bytes], renew: bool = False) -> Pair:
        """The key of this folder, made where there is none, and its certificate, issued where there is none."""
        key_file, certificate_file = folder / KEY_FILE, folder / CERTIFICATE_FILE
        with _damaged(folder), _told(folder):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not key_file.exists():
                if certificate_file.exists():
                    raise CertificateError(f"{CERTIFICATE_FILE} is there without its {KEY_FILE}")
                _write_new(key_file, certificates.new_key())
            key = _read(key_file)
            if renew or not certificate_file.exists():
                write_whole(certificate_file, issue(key))
            return Pair(_read(certificate_file), key)

    def _note_end(self, what: str, end: datetime.datetime, remedy: str) -> None:
        if end <= self._now:
            self._notes.append(f"{what} expired on {end:%Y-%m-%d}: {remedy}")
        elif end <= self._now + datetime.timedelta(days=WARN_DAYS):
            self._notes.append(f"{what} expires on {end:%Y-%m-%d}: {remedy}")


def _pool_secret(authority: Pair, pool: str) -> str:
    """What all gateways of a pool share: 64 hexadecimal digits of an HMAC-SHA256 with the authority's key."""
    return hmac.new(authority.key, f"secret of pool {pool}".encode(), hashlib.sha256).hexdigest()


def _read(path: Path) -> bytes:
    return read_at_most(path, _MAX_PEM_BYTES)


def _write_new(path: Path, content: bytes) -> None:
    """Write a private file, unless there is one: what is there may be all there is of a key."""
    if not path.exists():
        write_whole(path, content, private=True)


@contextlib.contextmanager
def _told(path: Path) -> Iterator[None]:
    """What the system refuses is an InputError that names the file."""
    try:
        yield
    except OSError as error:
        raise InputError(f"{error.filename or path}: {error.strerror or error}") from None


@contextlib.contextmanager
def _damaged(folder: Path) -> Iterator[None]:
    """What is wrong with a certificate is an InputError that names its folder."""
    try:
        yield
    except (CertificateError, OSError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise InputError(
            f"{folder} is damaged: {reason}; put it back from a copy, or, to begin anew with other keys, name a new "
            "folder"
        ) from None
