"""Keys are made in the forms that the peers read, and secrets are for their owner only."""

import stat

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from models import pki
from models.errors import ConfigurationError


def test_the_servers_certificate_is_its_authoritys_and_names_the_hosts(tmp_path):
    files = pki.make_server(tmp_path / "pki", ["vigie.example.org", "10.1.2.3"])

    authority = x509.load_pem_x509_certificate(files.ca.read_bytes())
    certificate = x509.load_pem_x509_certificate(files.certificate.read_bytes())
    certificate.verify_directly_issued_by(authority)
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["localhost", "vigie.example.org"]
    assert [str(address) for address in names.get_values_for_type(x509.IPAddress)] == ["127.0.0.1", "::1", "10.1.2.3"]
    constraints = authority.extensions.get_extension_for_class(x509.BasicConstraints).value
    assert (constraints.ca, constraints.path_length) == (True, 0)
    assert sorted(path.name for path in (tmp_path / "pki").iterdir()) == ["ca.crt", "server.crt", "server.key"]
    assert stat.S_IMODE(files.key.stat().st_mode) == 0o600


def test_a_hospitals_pair_is_what_flower_reads(tmp_path):
    files = pki.make_supernode(tmp_path / "secrets" / "supernode.key")

    private = serialization.load_ssh_private_key(files.private.read_bytes(), None)
    assert isinstance(private, ec.EllipticCurvePrivateKey)
    assert isinstance(private.curve, ec.SECP384R1)
    assert stat.S_IMODE(files.private.stat().st_mode) == 0o600
    public = serialization.load_pem_public_key(pki.supernode_public_pems(files.public)["training"])
    assert public == private.public_key()


def test_a_key_is_never_replaced(tmp_path):
    files = pki.make_supernode(tmp_path / "supernode.key")
    before = files.private.read_bytes()

    with pytest.raises(ConfigurationError):
        pki.make_supernode(tmp_path / "supernode.key")

    assert files.private.read_bytes() == before


@pytest.mark.parametrize("content", [b"", b"not a key", b"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ8o"])
def test_what_is_not_a_p384_key_is_refused(tmp_path, content):
    path = tmp_path / "some.pub"
    path.write_bytes(content)

    with pytest.raises(ConfigurationError):
        pki.supernode_public_pems(path)
