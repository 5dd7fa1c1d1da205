"""The coordinator's half of secure aggregation (`common.privacy.masking` has the site's, and the protocol)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from common.errors import FederationError, PrivacyError
from common.masking_messages import KeysAdvertised, SharesSealed, Sums, Unmasked
from common.privacy.mask_keys import SEALED_BYTES, MaskWords, Terms, digest_of, pair_mask_key, self_mask_key
from common.privacy.mask_statements import KEY, SEED, agree, as_bytes, commitment, is_octets, mask_sign, require_signed
from common.privacy.shamir import combine
from common.privacy.signing import certificate_of, certified_key

HASH_BYTES = 32

Layout = tuple[tuple[str, str], ...]
"""What words stand for (`common.privacy.contribution`): name and text of each sum."""


class MaskingServer:
    """The coordinator's half of one session: holds one sum for each layout, whatever the number of sites.

    Attributes
    ----------
    faults : dict of site to str
        What was wrong with something that a site sent.
    """

    def __init__(self, terms: Terms) -> None:
        self.terms = terms
        self.faults: dict[str, str] = {}
        self.roster: tuple[KeysAdvertised, ...] = ()
        self._shared: dict[str, SharesSealed] = {}
        self._parts: dict[tuple[Layout, tuple[int, int]], tuple[MaskWords, list[str]]] = {}
        self._layout: Layout = ()
        self._total: MaskWords | None = None
        self._included: list[str] = []
        self._seeds: dict[str, dict[str, bytes]] = {}
        self._keys: dict[str, dict[str, bytes]] = {}

    def open(self, advertised: Mapping[str, KeysAdvertised]) -> tuple[KeysAdvertised, ...]:
        """The roster (U1): keys that are signed by the certificate that came with them."""
        for site, entry in advertised.items():
            try:
                if entry.site != site:
                    raise PrivacyError(f"{site} answers as {entry.site}")
                key = certified_key(certificate_of(as_bytes(entry.certificate), site=site), site=site)
                require_signed(self.terms, entry, key)
            except PrivacyError as error:
                self.faults[site] = str(error)
        good = sorted(site for site in advertised if site not in self.faults)
        self.roster = tuple(advertised[site] for site in good)
        self._require(good, "sent keys")
        self.graph, self._context = agree(self.terms, self.roster)
        return self.roster

    def route(self, shared: Mapping[str, SharesSealed]) -> tuple[str, ...]:
        """The sites that shared their secrets (U2), sorted."""
        for site, reply in shared.items():
            if not self._is_complete(site, reply):
                self.faults[site] = f"{site} shared its secrets with others than its neighbours"
        self._shared = {site: shared[site] for site in sorted(shared) if site not in self.faults}
        self._require(self._shared, "shared their secrets")
        return tuple(self._shared)

    def sealed_for(self, site: str) -> Sums:
        """What others sealed for a site, by owner."""
        owners = [owner for owner in self.graph.neighbours(site) if owner in self._shared]
        return {owner: self._shared[owner].sealed[site] for owner in owners}

    def add(self, site: str, words: MaskWords, *, layout: Layout = ()) -> None:
        """Take a site into the sum (U3); PrivacyError where it shared no secrets, or is in it already.

        Words of different layouts are added up apart, and the layout of most sites is taken: one site cannot spoil the
        sum of the others, whenever it answers.
        """
        heard = {name for _, names in self._parts.values() for name in names}
        if site not in self._shared or site in heard or self._included:
            raise PrivacyError(f"{site} sent masked words out of order")
        key = (layout, words.shape)
        if key in self._parts:
            total, names = self._parts[key]
            total.add(words)
            names.append(site)
        else:
            self._parts[key] = (MaskWords(words.wide.copy(), words.narrow.copy()), [site])

    def settle(self) -> Layout:
        """Close the sum: the layout that most sites have, the first of equally many; the others drop out.

        Raises
        ------
        FederationError
            If the sites in the sum are too few.
        """
        if not self._included and self._parts:
            (layout, _), (total, names) = max(self._parts.items(), key=lambda part: len(part[1][1]))
            others = [name for _, apart in self._parts.values() if apart is not names for name in apart]
            self.faults |= {name: f"{name} sent sums of another layout than most sites" for name in others}
            self._total, self._included, self._layout = total, sorted(names), layout
            self._parts = {}
        self._require(self._included, "sent masked words")
        return self._layout

    @property
    def included(self) -> tuple[str, ...]:
        """The sites in the sum, sorted; closes it.

        Raises
        ------
        FederationError
            If they are too few.
        """
        self.settle()
        return tuple(self._included)

    def unopenable(self, unopened: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
        """Sites of which too few shares could be opened, as their holders say; sorted."""
        return tuple(
            owner
            for owner in sorted(self._shared)
            if sum(owner not in unopened[h] for h in self.graph.holders(owner) if h in unopened) < self.graph.threshold
            and any(owner in names for names in unopened.values())
        )

    def collect(self, holder: str, reply: Unmasked) -> None:
        """Keep the shares that fit what their owner committed to; the others are the holder's fault."""
        for kind, kept, shares in ((SEED, self._seeds, reply.seed_shares), (KEY, self._keys, reply.key_shares)):
            for owner, share in shares.items():
                commitments = self._shared[owner].commitments if owner in self._shared else {}
                expected = commitments[holder][int(kind == KEY)].tobytes() if holder in commitments else b""
                content = share.tobytes()
                if commitment(self._context, owner, holder, kind, content) == expected:
                    kept.setdefault(owner, {})[holder] = content
                else:
                    self.faults[holder] = f"{holder} sent a {kind.decode()} share that {owner} never gave it"

    def total(self) -> MaskWords:
        """The sum of the words of all included sites, bare.

        Raises
        ------
        FederationError
            Where too few shares came, or a site shared another secret than it masked with: names it.
        """
        included, total = self.included, self._total
        if total is None:
            raise FederationError("the masks were taken off already")
        for owner in included:
            seed = self._recovered(owner, self._seeds)
            if digest_of(SEED, self._context, owner, seed) != as_bytes(self._shared[owner].seed_commitment):
                raise FederationError(f"{owner} shared another seed than it committed to")
            total.apply(self_mask_key(seed, self._context, owner), sign=-1)
        public = {entry.site: as_bytes(entry.mask_key) for entry in self.roster}
        for owner in sorted(self._shared.keys() - set(included)):
            tied = [site for site in self.graph.neighbours(owner) if site in included]
            if not tied:
                continue
            private = X25519PrivateKey.from_private_bytes(self._recovered(owner, self._keys))
            if private.public_key().public_bytes_raw() != public[owner]:
                raise FederationError(f"{owner} shared another key than it advertised")
            for site in tied:
                key = pair_mask_key(private, public[site], self._context, owner, site)
                total.apply(key, sign=-mask_sign(site, owner))
        self._total = None
        return total

    def _is_complete(self, site: str, reply: SharesSealed) -> bool:
        holders = set(self.graph.holders(site))
        octets_of = [*reply.sealed.values(), reply.seed_commitment]
        return (
            set(reply.commitments) == holders
            and set(reply.sealed) == holders - {site}
            and all(pair.dtype == np.uint8 and pair.shape == (2, HASH_BYTES) for pair in reply.commitments.values())
            and all(is_octets(array) for array in octets_of)
            and all(array.size == SEALED_BYTES for array in reply.sealed.values())
        )

    def _recovered(self, owner: str, kept: Mapping[str, Mapping[str, bytes]]) -> bytes:
        shares = list(kept.get(owner, {}).items())[: self.graph.threshold]
        try:
            return combine({self.graph.point(h): s for h, s in shares}, threshold=self.graph.threshold)
        except PrivacyError as error:
            raise FederationError(f"the mask of {owner} cannot be taken off: {error}") from error

    def _require(self, sites: Sequence[str] | Mapping[str, object], what: str) -> None:
        if len(sites) < self.terms.threshold:
            missing = sorted(set(self.terms.cohort) - set(sites))
            raise FederationError(
                f"{len(sites)} sites {what}, {self.terms.threshold} are needed; without {', '.join(missing)}"
            )
