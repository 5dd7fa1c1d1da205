from datetime import UTC, datetime, timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID

from common.errors import PrivacyError
from common.privacy.signing import Authorities, Signer, certificate_of, fingerprint, is_signed
from tests.common.privacy.hospitals import Issuer, authorities, issuer, signer_of


def test_the_key_of_a_good_certificate_verifies_what_its_site_signed():
    signer = signer_of("north")
    key = authorities().public_key(signer.der, site="north")
    assert is_signed(key, signer.sign(b"text"), b"text")
    assert not is_signed(key, signer.sign(b"text"), b"other")
    assert not is_signed(key, b"no signature", b"text")


def test_a_certificate_of_another_authority_of_the_same_name_is_refused():
    impostor = Issuer.new().signer("north")
    with pytest.raises(PrivacyError, match="certificate of north was issued by no authority that this hospital knows"):
        authorities().public_key(impostor.der, site="north")


def test_a_hospital_with_an_authority_of_its_own_is_known_once_it_is_trusted():
    own = Issuer.new()
    both = Authorities((issuer().certificate, own.certificate))
    assert both.public_key(own.signer("north").der, site="north")


def test_a_certificate_of_another_site_is_refused():
    with pytest.raises(PrivacyError, match="certificate that came for north is of south"):
        authorities().public_key(signer_of("south").der, site="north")


@pytest.mark.parametrize("days", [-40, 40])
def test_a_wrong_clock_is_named(days):
    wrong = Authorities((issuer().certificate,), now=datetime.now(UTC) + timedelta(days=days))
    with pytest.raises(PrivacyError, match="this machine's clock says"):
        wrong.public_key(signer_of("north").der, site="north")


def test_a_certificate_that_ended_is_refused_also_where_it_was_checked_before():
    short = issuer().signer("north", days=1, began=timedelta(days=-1, seconds=2))
    checking = Authorities((issuer().certificate,))
    assert checking.public_key(short.der, site="north")
    checking._now = datetime.now(UTC) + timedelta(days=2)
    with pytest.raises(PrivacyError, match="certificate of north is valid from"):
        checking.public_key(short.der, site="north")


def test_a_pinned_site_needs_the_pinned_key():
    """The coordinator holds the authority, and issues itself a certificate in the name of a hospital."""
    real, forged = signer_of("north"), issuer().signer("north")
    pin = fingerprint(real.key.public_key())
    pinned = Authorities((issuer().certificate,), pins={"north": ":".join(pin[i : i + 2] for i in range(0, 64, 2))})
    assert pinned.public_key(real.der, site="north")
    with pytest.raises(PrivacyError, match="north holds another key than the one that this hospital pinned"):
        pinned.public_key(forged.der, site="north")
    assert authorities().public_key(forged.der, site="north")  # what the pin is for


def test_other_kinds_of_certificates_are_refused():
    server = issuer().signer("north", usage=ExtendedKeyUsageOID.SERVER_AUTH)
    with pytest.raises(PrivacyError, match="not one of a hospital"):
        authorities().public_key(server.der, site="north")
    weak = issuer().signer("north", curve=ec.SECP224R1())
    with pytest.raises(PrivacyError, match="no key of P-256 or P-384"):
        authorities().public_key(weak.der, site="north")
    with pytest.raises(PrivacyError, match="what north sent as its certificate is none"):
        certificate_of(b"nothing", site="north")


def test_a_signer_shows_no_key_in_words():
    assert "key" not in repr(Signer(ec.generate_private_key(ec.SECP384R1()), issuer().certificate)).split("cert")[0]
