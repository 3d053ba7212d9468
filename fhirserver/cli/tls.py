"""TLS of `fhirserver serve`: the certificate and key that the settings name, and nothing older than TLS 1.2."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import uvicorn

_OTHERS = 0o007


def context(certificate: str, key: str) -> ssl.SSLContext:
    """The server's side of TLS 1.2 and 1.3; ValueError in one sentence for files that cannot be used."""
    if not (certificate and key):
        raise ValueError("FHIRSERVER_TLS_CERTIFICATE and FHIRSERVER_TLS_KEY are set together or not at all.")
    for name, variable in ((certificate, "TLS_CERTIFICATE"), (key, "TLS_KEY")):
        try:
            with Path(name).open("rb"):
                mode = Path(name).stat().st_mode
        except OSError as failure:
            reason = (failure.strerror or "not there").lower()
            raise ValueError(f"FHIRSERVER_{variable} names {name}, which cannot be read: {reason}.") from None
        if variable == "TLS_KEY" and mode & _OTHERS:
            raise ValueError(f"The TLS key {name} may be read by others; run `chmod 600 {name}`.")
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.minimum_version = ssl.TLSVersion.TLSv1_2
    made.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    try:
        # Without a password of ours OpenSSL would ask for one at the terminal.
        made.load_cert_chain(certificate, key, password=lambda: b"")
    except (ssl.SSLError, ValueError):
        told = "are no PEM certificate (with its chain) and unencrypted key that belong together"
        raise ValueError(f"FHIRSERVER_TLS_CERTIFICATE and FHIRSERVER_TLS_KEY {told}.") from None
    return made


def of_worker(config: uvicorn.Config, _: Callable[[], ssl.SSLContext]) -> ssl.SSLContext:
    """What uvicorn calls in each worker process."""
    return context(str(config.ssl_certfile), str(config.ssl_keyfile))
