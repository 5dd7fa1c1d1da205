"""The hospital's image archive, in `site.toml`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field, model_validator

from common.config.loading import Frozen

AeTitle = Annotated[str, Field(min_length=1, max_length=16, pattern=r"^[!-\[\]-~]([ -\[\]-~]*[!-\[\]-~])?$")]
"""DICOM value representation AE (PS3.5 section 6.2): 1 to 16 printable characters without backslash."""


class PacsTlsConfig(Frozen):
    """DICOM over TLS (PS3.15 annex B).

    Parameters
    ----------
    ca : Path
        Certificate of the authority that signed the archive's.
    certificate, key : Path
        What this hospital's machine shows of itself, where the archive asks for it; both or none.
    """

    ca: Path
    certificate: Path | None = None
    key: Path | None = None

    @model_validator(mode="after")
    def _both_or_none(self) -> PacsTlsConfig:
        if (self.certificate is None) != (self.key is None):
            raise ValueError("tls: certificate and key belong together; name both or none")
        return self


class PacsConfig(Frozen):
    """How this machine speaks DICOM with the archive.

    Parameters
    ----------
    host : str
        Name or address.
    port : int
        Its DICOM port: 104 or 11112, as IANA registered them; 2762 with TLS; Orthanc's is 4242.
    ae_title : str
        The archive's application entity title (called AE).
    calling_ae_title : str
        This machine's; the archive's administrator enters it there.
    tls : PacsTlsConfig, optional
        Without it DICOM goes unencrypted through the hospital's own network.
    """

    host: Annotated[str, Field(min_length=1, pattern=r"^[^\s/]+$")]
    port: Annotated[int, Field(ge=1, le=65535)] = 104
    ae_title: AeTitle
    calling_ae_title: AeTitle = "FEDRAD"
    tls: PacsTlsConfig | None = None

    def relative_to(self, folder: Path) -> PacsConfig:
        """Paths in the file are relative to the folder that holds it."""
        if self.tls is None:
            return self
        paths = {name: folder / path for name in ("ca", "certificate", "key") if (path := getattr(self.tls, name))}
        return self.model_copy(update={"tls": self.tls.model_copy(update=paths)})
