"""The steps of a masked sum as they travel (`common.privacy.masking`): keys, sealed shares, masked words, signatures.

One masked sum is a session of five requests, of which `common.messages.MaskedInput` carries the question itself. Octets
travel as arrays of uint8, because a header of JSON cannot carry them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.generic]
Sums = Mapping[str, npt.NDArray[np.generic]]


@dataclass(frozen=True, eq=False)
class AdvertiseKeys:
    """Begin a masked sum (`common.privacy.masking`): make fresh keys for one question and sign them.

    Parameters
    ----------
    session : str
        32 hexadecimal digits, never used before.
    asked : str
        `common.codec.message_digest` of the question that will be answered in masked words.
    cohort : tuple of str
        All hospitals that are asked, sorted: the study says which these can be.
    """

    study_digest: str
    session: str
    asked: str
    cohort: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class KeysAdvertised:
    """A site's public keys for one session, signed by the key of its certificate.

    Parameters
    ----------
    seal_key, mask_key : ndarray of uint8, shape (32,)
        X25519; the first for the shares that sites send one another, the second for masks of pairs.
    certificate : ndarray of uint8
        DER.
    signature : ndarray of uint8
        ECDSA with SHA-384 over session, question, cohort and both keys.
    """

    site: str
    seal_key: Bytes
    mask_key: Bytes
    certificate: Bytes
    signature: Bytes


@dataclass(frozen=True, eq=False)
class ShareKeys:
    """The keys of every site that takes part: check them, and share your secrets among their owners."""

    study_digest: str
    session: str
    roster: tuple[KeysAdvertised, ...]


@dataclass(frozen=True, eq=False)
class SharesSealed:
    """Shares of a site's two secrets, sealed for one holder each, and what shows later that a share is the true one.

    Parameters
    ----------
    sealed : mapping of holder to ndarray of uint8
    commitments : mapping of holder to ndarray of uint8, shape (2, 32)
        SHA-256 of the holder's share of the seed and of the key.
    seed_commitment : ndarray of uint8, shape (32,)
    """

    sealed: Sums
    commitments: Sums
    seed_commitment: Bytes


@dataclass(frozen=True, eq=False)
class MaskedValues:
    """An answer that is uniformly random to whoever does not hold the masks.

    Parameters
    ----------
    layout : mapping of name to text
        Dtype and shape of each sum (`common.privacy.contribution`); it says nothing about cases.
    wide, narrow : ndarray of uint64 and of uint32
    """

    layout: Mapping[str, str]
    wide: npt.NDArray[np.generic]
    narrow: npt.NDArray[np.generic]


@dataclass(frozen=True, eq=False)
class ConsistencyCheck:
    """Sign that you heard exactly these sites.

    Parameters
    ----------
    included : tuple of str
        The sites whose masked words are in the sum, sorted.
    sealed : mapping of owner to ndarray of uint8
        The shares that other sites entrust to this one.
    """

    study_digest: str
    session: str
    included: tuple[str, ...]
    sealed: Sums


@dataclass(frozen=True, eq=False)
class Consistent:
    """A site's signature of session and included sites; it gives one a session.

    ``unopened`` are sites whose shares could not be opened here.
    """

    signature: Bytes
    unopened: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Unmask:
    """The signatures of at least the threshold of sites: hand over the shares that take the masks off the sum."""

    study_digest: str
    session: str
    signatures: Sums


@dataclass(frozen=True, eq=False)
class Unmasked:
    """Of each owner one kind of share: of the seed where it is in the sum, of the key where it dropped out before."""

    seed_shares: Sums
    key_shares: Sums
