"""Secure aggregation: the coordinator learns a sum over sites and no summand. Both halves, without a network.

Bonawitz et al. 2017, "Practical Secure Aggregation for Privacy-Preserving Machine Learning", figure 4, in the variant
against an active server (signed keys, consistency check), with the graph of Bell et al. 2020 for many sites
(`common.privacy.mask_graph`). One session sums the answers to one question::

    site u                                            coordinator
    advertise: fresh X25519 keys, signed       ->     roster of everyone's keys                       (U1)
    share: Shamir shares of seed b_u and of
           mask key s_u, sealed for each holder ->    hands every holder what is sealed for it        (U2)
    mask:  x_u + PRG(b_u) +- PRG(s_u, s_v) ...  ->    adds up                                         (U3)
    sign:  "these sites are in the sum"         ->    hands the signatures around
    unmask: of each site ONE kind of share      ->    takes off the masks of seeds in the sum, and of
                                                      pairs with sites that dropped out: the sum

A site that is in the sum keeps its mask key, one that is not keeps its seed; a coordinator that asks for both has to
get two sets signed in one session, and each site signs one. A method refuses, with `PrivacyError`, whatever is not the
next step as agreed, and the session is over; secrets live in this object alone and are given up by `MaskingSite.wipe`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from common.errors import PrivacyError
from common.masking_messages import Consistent, KeysAdvertised, SharesSealed, Sums, Unmasked
from common.privacy.mask_keys import (
    MaskWords,
    Terms,
    agreed,
    derive,
    digest_of,
    pair_mask_key,
    seal,
    self_mask_key,
    unseal,
)
from common.privacy.mask_statements import (
    KEY,
    SEED,
    agree,
    as_bytes,
    bound_to,
    commitment,
    is_octets,
    key_statement,
    mask_sign,
    octets,
    require_signed,
    set_statement,
)
from common.privacy.shamir import SECRET_BYTES, SHARE_BYTES, split
from common.privacy.signing import Authorities, Signer, is_signed


class MaskingSite:
    """A site's half of one session.

    Parameters
    ----------
    terms : Terms
        As this site, not the coordinator, says that they are.

    Attributes
    ----------
    faults : dict of str to str
        Sites whose shares could not be opened here, each with the reason: they are known to their owner alone.
    """

    def __init__(self, terms: Terms, *, site: str, signer: Signer, authorities: Authorities) -> None:
        if site not in terms.cohort:
            raise PrivacyError(f"{site} is not in the cohort")
        self.terms = terms
        self.site = site
        self._signer = signer
        self._authorities = authorities
        self._seal_key, self._mask_key = X25519PrivateKey.generate(), X25519PrivateKey.generate()
        self._seed = bytearray(os.urandom(SECRET_BYTES))
        self._held: dict[str, bytes] = {}
        self._roster: dict[str, KeysAdvertised] = {}
        self._peers: tuple[str, ...] = ()
        self._included: tuple[str, ...] = ()
        self._own: KeysAdvertised | None = None
        self._next = "advertise"
        self.faults: dict[str, str] = {}

    def advertise(self) -> KeysAdvertised:
        """Fresh public keys, signed."""
        with self._step("advertise", then="share"):
            seal_key, mask_key = (key.public_key().public_bytes_raw() for key in (self._seal_key, self._mask_key))
            signature = self._signer.sign(key_statement(self.terms, self.site, seal_key, mask_key))
            self._own = KeysAdvertised(
                self.site, octets(seal_key), octets(mask_key), octets(self._signer.der), octets(signature)
            )
            return self._own

    def share(self, roster: Sequence[KeysAdvertised]) -> SharesSealed:
        """Check everyone's keys, and seal a share of each secret for each holder.

        Raises
        ------
        PrivacyError
            Naming the site whose keys are not its own, or are of another session or question.
        """
        with self._step("share", then="mask"):
            self._check_roster(roster)
            self._roster = {entry.site: entry for entry in roster}
            self._graph, self._context = agree(self.terms, roster)
            shares = {SEED: self._split(bytes(self._seed)), KEY: self._split(self._mask_key.private_bytes_raw())}
            commitments, sealed = {}, {}
            for holder in self._graph.holders(self.site):
                both = [shares[kind][holder] for kind in (SEED, KEY)]
                commitments[holder] = np.stack(
                    [
                        octets(commitment(self._context, self.site, holder, k, s))
                        for k, s in zip((SEED, KEY), both, strict=True)
                    ]
                )
                if holder == self.site:
                    self._held[holder] = b"".join(both)
                else:
                    key = self._sealing_key(self.site, holder, peer=holder)
                    sealed[holder] = octets(seal(key, both, bound_to(self._context, self.site, holder)))
            seed_commitment = digest_of(SEED, self._context, self.site, bytes(self._seed))
            return SharesSealed(sealed, commitments, octets(seed_commitment))

    def mask(self, words: MaskWords, sharers: Sequence[str]) -> MaskWords:
        """The words under all masks of this site; ``sharers`` are the sites that shared their secrets.

        Raises
        ------
        PrivacyError
            If these sites are too few, or no sites of the roster.
        """
        with self._step("mask", then="sign"):
            self._require_sites(sharers, "share their secrets")
            self._peers = tuple(peer for peer in self._graph.neighbours(self.site) if peer in set(sharers))
            if len(self._peers) + 1 < self._graph.threshold:
                raise PrivacyError(f"masks with {len(self._peers)} sites, {self._graph.threshold - 1} are needed")
            masked = MaskWords(words.wide.copy(), words.narrow.copy())
            masked.apply(self_mask_key(bytes(self._seed), self._context, self.site), sign=1)
            for peer in self._peers:
                theirs = as_bytes(self._roster[peer].mask_key)
                key = pair_mask_key(self._mask_key, theirs, self._context, self.site, peer)
                masked.apply(key, sign=mask_sign(self.site, peer))
            return masked

    def sign(self, included: Sequence[str], sealed: Sums) -> Consistent:
        """Sign the set of sites that are in the sum; a session has one. ``sealed`` are the shares held for others.

        Raises
        ------
        PrivacyError
            If these sites are too few, are not those that were masked with, or fall into parts that no mask ties
            together; if the shares that can be opened are too few.
        """
        with self._step("sign", then="unmask"):
            self._require_sites(included, "are in the sum")
            chosen = set(included)
            neighbours = set(self._graph.neighbours(self.site)) & chosen
            unheard = sorted(neighbours - set(self._peers))
            if unheard:
                raise PrivacyError(f"the sum holds {', '.join(unheard)}, who shared nothing: the cohort was changed")
            if len(neighbours) + 1 < self._graph.threshold or not self._graph.is_connected(chosen):
                raise PrivacyError("the sites in the sum fall into parts: too many of the masks between them are gone")
            self._hold(sealed)
            self._included = tuple(included)
            signature = self._signer.sign(set_statement(self._context, included))
            return Consistent(octets(signature), tuple(sorted(self.faults)))

    def unmask(self, signatures: Sums) -> Unmasked:
        """One kind of share of each site whose shares are held here; afterwards all secrets are given up.

        Raises
        ------
        PrivacyError
            If fewer sites than the threshold signed the set that this site signed.
        """
        with self._step("unmask", then=""):
            statement = set_statement(self._context, self._included)
            agreed_by = 0
            for site in set(signatures) & set(self._included):
                key = self._authorities.public_key(as_bytes(self._roster[site].certificate), site=site)
                agreed_by += is_octets(signatures[site]) and is_signed(key, as_bytes(signatures[site]), statement)
                if agreed_by == self.terms.threshold:
                    break
            if agreed_by < self.terms.threshold:
                raise PrivacyError(
                    f"{agreed_by} sites signed that the sum is over the same {len(self._included)} sites, "
                    f"{self.terms.threshold} are needed: others were told of another sum"
                )
            seeds = {owner: octets(both[:SHARE_BYTES]) for owner, both in self._held.items() if owner in self._included}
            keys = {
                owner: octets(both[SHARE_BYTES:]) for owner, both in self._held.items() if owner not in self._included
            }
            self.wipe()
            return Unmasked(seeds, keys)

    def wipe(self) -> None:
        """Overwrite the seed, and give up keys and shares; every further step is refused."""
        self._next = ""
        self._seed[:] = bytes(SECRET_BYTES)
        self._seal_key, self._mask_key = X25519PrivateKey.generate(), X25519PrivateKey.generate()
        self._held.clear()

    @contextmanager
    def _step(self, name: str, *, then: str) -> Iterator[None]:
        """One step of the session; whatever fails in it ends the session."""
        try:
            if self._next != name:
                raise PrivacyError(f"{name} was asked out of order, expected {self._next or 'nothing more'}")
            yield
        except BaseException:
            self.wipe()
            raise
        self._next = then

    def _check_roster(self, roster: Sequence[KeysAdvertised]) -> None:
        names = [entry.site for entry in roster]
        if names != sorted(set(names)) or not set(names) <= set(self.terms.cohort):
            raise PrivacyError("the roster is not a sorted part of the cohort")
        if len(names) < self.terms.threshold:
            raise PrivacyError(f"keys of {len(names)} sites, at least {self.terms.threshold} are needed")
        public = [as_bytes(key) for entry in roster for key in (entry.seal_key, entry.mask_key)]
        if len(set(public)) < len(public):
            raise PrivacyError("two sites of the roster have the same key")
        for entry in roster:
            if entry.site == self.site and entry is not self._own and not _equal(entry, self._own):
                raise PrivacyError(f"the roster holds other keys for {self.site} than it advertised")
            key = self._authorities.public_key(as_bytes(entry.certificate), site=entry.site)
            require_signed(self.terms, entry, key)
        if self.site not in names:
            raise PrivacyError(f"the roster does not hold {self.site}")

    def _require_sites(self, sites: Sequence[str], what: str) -> None:
        if list(sites) != sorted(set(sites)) or not set(sites) <= self._roster.keys():
            raise PrivacyError(f"the sites that {what} are not sorted sites of the roster")
        if self.site not in sites:
            raise PrivacyError(f"{self.site} is not among the sites that {what}")
        if len(sites) < self.terms.threshold:
            raise PrivacyError(f"{len(sites)} sites {what}, at least {self.terms.threshold} are needed")

    def _hold(self, sealed: Sums) -> None:
        odd = sorted(sealed.keys() ^ set(self._peers))
        if odd:
            raise PrivacyError(f"shares came from other sites than those that shared: {', '.join(odd)}")
        for owner in sealed:
            key = self._sealing_key(owner, self.site, peer=owner)
            bound = bound_to(self._context, owner, self.site)
            try:
                self._held[owner] = unseal(key, as_bytes(sealed[owner]), bound, whose=owner)
            except PrivacyError as error:  # nothing of it is held here, which harms the owner's part in the sum alone
                self.faults[owner] = str(error)
        if len(self._held) < self._graph.threshold:
            raise PrivacyError(next(iter(self.faults.values())))

    def _split(self, secret: bytes) -> dict[str, bytes]:
        holders = self._graph.holders(self.site)
        points = [self._graph.point(holder) for holder in holders]
        shares = split(secret, holders=points, threshold=self._graph.threshold)
        return {holder: shares[point] for holder, point in zip(holders, points, strict=True)}

    def _sealing_key(self, owner: str, holder: str, *, peer: str) -> bytes:
        secret = agreed(self._seal_key, as_bytes(self._roster[peer].seal_key), whose=peer)
        return derive(secret, self._context, b"seal", owner, holder)


def _equal(entry: KeysAdvertised, own: KeysAdvertised | None) -> bool:
    if own is None:
        return False
    return all(
        np.array_equal(getattr(entry, name), getattr(own, name))
        for name in ("seal_key", "mask_key", "certificate", "signature")
    )
