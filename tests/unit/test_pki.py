"""Keys are made in the forms that the peers read, and secrets are for their owner only."""

import stat

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from client.federation.supernode import make_keys
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


def test_both_keys_of_a_hospital_are_one_file_to_send(tmp_path):
    public = make_keys(tmp_path)
    private = {name: (tmp_path / name).read_bytes() for name in ("supernode.key", "control.key")}

    pems = pki.supernode_public_pems(public)

    assert list(pems) == ["training", "control"]
    for (name, content), pem in zip(private.items(), pems.values(), strict=True):
        key = serialization.load_ssh_private_key(content, None).public_key()
        assert serialization.load_pem_public_key(pem) == key, name
    assert [path.name for path in tmp_path.glob("*.pub")] == ["supernode.key.pub"]
    # of an earlier release: the key that the coordinator knows stays, and a second one is added
    (tmp_path / "control.key").unlink()
    make_keys(tmp_path)
    assert (tmp_path / "supernode.key").read_bytes() == private["supernode.key"]
    assert pki.supernode_public_pems(public)["training"] == pems["training"]
    assert pki.supernode_public_pems(public)["control"] != pems["control"]


def test_a_lone_key_is_the_one_for_training_whatever_stands_behind_it(tmp_path):
    files = pki.make_supernode(tmp_path / "supernode.key")
    files.public.write_bytes(files.public.read_bytes().strip() + b" root@pacs\n")

    assert list(pki.supernode_public_pems(files.public)) == ["training"]
    line = files.public.read_bytes()
    files.public.write_bytes(line.replace(b"root@pacs", b"training") + line.replace(b"root@pacs", b"control"))
    with pytest.raises(ConfigurationError, match="one key twice"):
        pki.supernode_public_pems(files.public)
