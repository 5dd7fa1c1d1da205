"""Does the hospital's image archive (PACS) answer, and does it accept this machine? DICOM's C-ECHO, PS3.4 annex A."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter

from pynetdicom import AE, evt
from pynetdicom.association import Association
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]  # made when imported

from client.preflight_finding import Finding, failed, ok
from common.config.pacs import PacsConfig, PacsTlsConfig

PACS = "PACS"
SUCCESS = 0x0000


def check_pacs(pacs: PacsConfig, *, timeout_s: float = 10.0) -> Finding:
    """Ask the archive for a sign of life, which reads and changes nothing there."""
    where = f"{pacs.ae_title} at {pacs.host} port {pacs.port}"
    try:
        tls = _tls_context(pacs.tls) if pacs.tls else None
    except OSError as error:  # ssl.SSLError is one
        return failed(PACS, f"[pacs.tls]: {error.strerror or error}", "correct the files' paths in site.toml")
    try:
        _reach(pacs, tls, timeout_s)
    except ssl.SSLError as error:
        advice = "check [pacs.tls]: ca must be of the archive's authority; is it the port for TLS?"
        return failed(PACS, f"{where}: {getattr(error, 'verify_message', '') or error.reason}", advice)
    except OSError as error:
        advice = "correct host and port, or open the hospital's firewall"
        return failed(PACS, f"{where}: {error.strerror or error}", advice)
    begun = perf_counter()
    with _associated(pacs, tls, timeout_s) as association:
        if not association.is_established:
            return _refused(pacs, where, association)
        status = association.send_c_echo()
    milliseconds = (perf_counter() - begun) * 1000
    if "Status" not in status:
        return failed(PACS, f"{where} ends the conversation at C-ECHO", _peer(pacs))
    if status.Status != SUCCESS:
        return failed(PACS, f"{where}: C-ECHO brought status {status.Status:#06x}", "ask the archive's administrator")
    way = "over TLS" if tls else "unencrypted"
    return ok(PACS, f"{where} answers C-ECHO {way}, after {milliseconds:.0f} ms")


def _reach(pacs: PacsConfig, tls: ssl.SSLContext | None, timeout_s: float) -> None:
    """Connect, and shake hands for TLS, by hand: pynetdicom does not tell which of them failed."""
    with socket.create_connection((pacs.host, pacs.port), timeout=timeout_s) as connection:
        if tls is not None:
            tls.wrap_socket(connection, server_hostname=pacs.host).close()


@contextmanager
def _associated(pacs: PacsConfig, tls: ssl.SSLContext | None, timeout_s: float) -> Iterator[Association]:
    """An association, established or not. Its socket is closed here: pynetdicom forgets it where the archive closed."""
    opened: list[socket.socket] = []
    entity = AE(ae_title=pacs.calling_ae_title)
    entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = entity.connection_timeout = timeout_s
    entity.add_requested_context(Verification)
    association = entity.associate(
        pacs.host,
        pacs.port,
        ae_title=pacs.ae_title,
        tls_args=(tls, pacs.host) if tls is not None else None,
        evt_handlers=[(evt.EVT_CONN_OPEN, lambda event: opened.append(event.assoc.dul.socket.socket))],
    )
    try:
        yield association
    finally:
        if association.is_established:
            association.release()
        association.kill()
        for connection in opened:
            connection.close()


def _refused(pacs: PacsConfig, where: str, association: Association) -> Finding:
    answer = association.acceptor.primitive
    if association.is_rejected and answer is not None:
        return failed(PACS, f"{where} refuses the association: {answer.reason_str.lower()}", _peer(pacs))
    if pacs.tls:
        advice = "does it want a certificate of this machine ([pacs.tls]), and is this machine among its peers?"
    else:
        advice = "is it the DICOM port, does it want TLS ([pacs.tls]), and is this machine among its peers?"
    return failed(PACS, f"{where} listens, but ends the conversation", advice)


def _peer(pacs: PacsConfig) -> str:
    return f"ae_title must be the archive's own; have {pacs.calling_ae_title} and this machine entered there as a peer"


def _tls_context(tls: PacsTlsConfig) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=tls.ca)
    if tls.certificate is not None:
        context.load_cert_chain(tls.certificate, tls.key)
    return context
