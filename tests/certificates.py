"""Certificates for tests of TLS, made by an authority that nobody else knows."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from functools import cache
from pathlib import Path

import trustme

from p2p.transport.tls import TlsFiles


@cache
def certificates(*names: str) -> TlsFiles:
    """A certificate for these names or addresses, its key, and its authority."""
    place = Path(tempfile.mkdtemp(prefix="p2p-tls-"))
    atexit.register(shutil.rmtree, place, ignore_errors=True)
    authority = trustme.CA()
    issued = authority.issue_cert(*names)
    files = TlsFiles(place / "cert.pem", place / "key.pem", place / "ca.pem")
    assert files.cert is not None
    assert files.key is not None
    assert files.ca is not None
    for number, blob in enumerate(issued.cert_chain_pems):
        blob.write_to_path(str(files.cert), append=number > 0)
    issued.private_key_pem.write_to_path(str(files.key))
    authority.cert_pem.write_to_path(str(files.ca))
    return files
