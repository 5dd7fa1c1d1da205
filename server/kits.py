"""Making the start-up kit of a hospital (`common.kit`), with every check before the authority signs anything."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from importlib.resources import files
from ipaddress import ip_address
from pathlib import Path
from string import Template

from cryptography import x509

from common.config.loading import digest, load, parse
from common.config.site import SiteConfig
from common.config.study import StudyConfig
from common.errors import StateError
from common.kit import AUTHORITY, CERTIFICATE, README, SITE_FILE, STUDIES, KitManifest, pack_kit
from common.version import VERSION, versions
from server.provisioning import KEYS, Authority
from server.tls_server import split_address


def make_kit(
    authority: Authority,
    site: str,
    *,
    address: str,
    studies: Sequence[Path],
    request: bytes | None = None,
    rotate: bool = False,
    file_name: str = "kit.zip",
) -> bytes:
    """The kit of one hospital as a ZIP file.

    Parameters
    ----------
    address : str
        ``host:port`` under which this hospital reaches the coordinator; it must be in the listener's certificate.
    studies : sequence of Path
        Study files, at least one; each must name the site.
    request : bytes, optional
        The hospital's signing request (PEM). Without one the kit has no certificate: for a hospital that has been
        admitted, and gets a new study or address.
    rotate : bool
        The request replaces the key of an admitted site, whose former certificate is refused from now on.
    file_name : str
        Under which the hospital will get the kit: stands in its README.

    Raises
    ------
    ConfigError, StateError
        If a study has faults, does not name the site, or the address is not in the listener's certificate; if the
        request is refused, or there is none and the site is not admitted. Nothing is signed then.
    """
    require_in_certificate(authority, address)
    loaded = {path: load(path, StudyConfig) for path in studies}
    _require_member(loaded, site)
    site_file = _fill("kit_site.toml", site=site, address=address, studies=_listed(loaded.values()))
    parse(site_file, SiteConfig, source=f"site file of {site}")  # a wrong name or address is found before it is signed
    if request is None:
        if site not in authority.admitted():
            raise StateError(f"site {site} is not admitted: give its signing request with --request")
        certificate = None
    else:
        certificate = authority.rotate(request, site=site) if rotate else authority.sign(request, site=site)
    content = {f"{STUDIES}{study.name}.toml": path.read_bytes() for path, study in loaded.items()}
    content |= {AUTHORITY: authority.ca_certificate, SITE_FILE: site_file.encode()}
    if certificate is not None:
        content[CERTIFICATE] = certificate
    made = datetime.now(UTC).isoformat(timespec="seconds")
    readme = _fill(
        "kit_readme.txt",
        site=site,
        made=made,
        version=VERSION,
        address=address,
        file=file_name,
        certificate=_end_of(certificate),
        studies="\n".join(f"  {s.name}: {s.title} (SHA-256 {digest(s)})" for s in loaded.values()),
    )
    content[README] = readme.encode()
    manifest = KitManifest(
        site=site,
        address=address,
        made=made,
        versions=versions(),
        studies={f"{STUDIES}{study.name}.toml": digest(study) for study in loaded.values()},
        files={},
    )
    return pack_kit(manifest, content, sign=authority.seal)


def require_in_certificate(authority: Authority, address: str) -> None:
    """Raise `StateError` where the listener's certificate does not hold the host of ``address``.

    Raises
    ------
    FederationError
        If ``address`` is not ``host:port``.
    """
    host, _ = split_address(address)
    server = x509.load_pem_x509_certificate((authority.home / KEYS / "server.pem").read_bytes())
    names = server.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    known = {name.lower() for name in names.get_values_for_type(x509.DNSName)}
    addresses = set(names.get_values_for_type(x509.IPAddress))
    try:
        found = ip_address(host) in addresses
    except ValueError:
        found = host.lower() in known
    if not found:
        held = ", ".join(sorted(known | {str(found) for found in addresses}))
        raise StateError(
            f"the coordinator's certificate is for {held}, not for {host}; renew it with all names: "
            "fedrad coordinator renew"
        )


def _require_member(studies: dict[Path, StudyConfig], site: str) -> None:
    if not studies:
        raise StateError("a kit holds at least one study")
    for path, study in studies.items():
        names = [entry.name for entry in study.sites]
        if site not in names:
            raise StateError(f"{path}: its sites are {', '.join(names)}; {site} is not among them")
    names = [study.name for study in studies.values()]
    if len(set(names)) != len(names):
        raise StateError(f"studies in one kit need different names, got {', '.join(names)}")


def _listed(studies: Iterable[StudyConfig]) -> str:
    return ", ".join(f'"{STUDIES}{study.name}.toml"' for study in studies)


def _end_of(certificate: bytes | None) -> str:
    if certificate is None:
        return "none in this kit: the one that the hospital has stays valid"
    return f"valid until {x509.load_pem_x509_certificate(certificate).not_valid_after_utc:%Y-%m-%d}"


def _fill(template: str, **values: str) -> str:
    text = (files("server") / "templates" / template).read_text(encoding="utf-8")
    return Template(text).substitute(values)
