"""Certificates of the tests' own."""

import datetime
from pathlib import Path
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec


class Certificate(NamedTuple):
    """Files in PEM."""

    cert: Path
    key: Path


def certificate(folder: Path) -> Certificate:
    """Make one that signs itself, ran out yesterday, and is for a name that is nobody's address here."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "vllm.example.org")])
    end = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=1)
    begin = end - datetime.timedelta(days=1)
    signed = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), begin, end).sign(
        key, hashes.SHA256()
    )
    private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    folder.mkdir(exist_ok=True)
    made = Certificate(folder / "cert.pem", folder / "key.pem")
    made.cert.write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    made.key.write_bytes(private)
    return made
