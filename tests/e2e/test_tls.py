"""`fhirserver serve` with a certificate: HTTPS on a real socket, nothing older than TLS 1.2, and a sentence for what
cannot be."""

from __future__ import annotations

import datetime
import ipaddress
import os
import re
import ssl
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.stores import environment


def certify(folder: Path, *, password: bytes | None = None) -> tuple[Path, Path]:
    """A self-signed certificate of 127.0.0.1, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    lock = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, lock)
    paths = folder / "cert.pem", folder / "key.pem"
    paths[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    paths[1].write_bytes(pem)
    paths[1].chmod(0o600)
    return paths


def settings(folder: Path, certificate: Path, key: Path, **more: str) -> dict[str, str]:
    return environment(f"sqlite:///{folder}/fhir.db", folder) | {
        "FHIRSERVER_TLS_CERTIFICATE": str(certificate),
        "FHIRSERVER_TLS_KEY": str(key),
        **more,
    }


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "fhirserver", *words]


@pytest.fixture(params=["1", "2"], ids=["one worker", "two workers"])
def port(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[int]:
    certificate, key = certify(tmp_path)
    process = subprocess.Popen(
        command("serve", "--port", "0"),
        stderr=subprocess.PIPE,
        text=True,
        env=settings(tmp_path, certificate, key, FHIRSERVER_WORKERS=request.param),
    )
    try:
        assert process.stderr is not None
        said = process.stderr.readline()
        match = re.search(r"https://127\.0\.0\.1:(\d+)/", said)
        assert match, said
        yield int(match[1])
    finally:
        process.terminate()
        process.communicate(timeout=20)


def test_https_with_a_certificate(port: int, tmp_path: Path) -> None:
    trusted = ssl.create_default_context(cafile=str(tmp_path / "cert.pem"))
    with httpx.Client(verify=trusted, base_url=f"https://127.0.0.1:{port}", transport=_patient(trusted)) as client:
        answer = client.get("/FHIR/R4/metadata")
        assert answer.json()["implementation"]["url"] == f"https://127.0.0.1:{port}/FHIR/R4"
        assert "server" not in answer.headers
        assert answer.headers["strict-transport-security"] == "max-age=31536000"
        refused = client.get("/FHIR/R4/Patient/p")
        assert (refused.status_code, "strict-transport-security" in refused.headers) == (401, True)
    old = ssl.create_default_context(cafile=str(tmp_path / "cert.pem"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        old.minimum_version = ssl.TLSVersion.TLSv1
        old.maximum_version = ssl.TLSVersion.TLSv1_1
    old.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.raises(httpx.ConnectError), httpx.Client(verify=old) as client:
        client.get(f"https://127.0.0.1:{port}/health/live")
    with pytest.raises(httpx.HTTPError), httpx.Client() as client:
        client.get(f"http://127.0.0.1:{port}/health/live")


def _patient(trusted: ssl.SSLContext) -> httpx.HTTPTransport:
    """The workers may still be starting."""
    return httpx.HTTPTransport(verify=trusted, retries=8)


def test_what_cannot_be_is_told_in_a_sentence(tmp_path: Path) -> None:
    certificate, key = certify(tmp_path)
    (tmp_path / "other").mkdir()
    stranger = certify(tmp_path / "other", password=b"secret")[1]
    loose = tmp_path / "loose.pem"
    loose.write_bytes(key.read_bytes())
    os.chmod(loose, 0o644)
    certificate.chmod(0o600)
    for chosen, said in {
        stranger: "belong together",
        tmp_path / "nothing.pem": "cannot be read",
        certificate: "belong together",
        loose: "chmod 600",
        Path(): "set together",
    }.items():
        given = settings(tmp_path, certificate, chosen)
        if chosen == Path():
            given.pop("FHIRSERVER_TLS_KEY")
        done = subprocess.run(
            command("serve", "--port", "0"), check=False, capture_output=True, text=True, env=given, timeout=30
        )
        assert done.returncode in (1, 2)
        assert said in done.stderr, done.stderr
        assert "Traceback" not in done.stderr
