"""`--tls-self-signed`: a certificate that is made once, kept, and replaced before it ends."""

import datetime
import ssl
import stat
from pathlib import Path

import httpx
import pytest
from cryptography import x509
from support.command_line import environment, error_line, run
from support.serving import serving

from edge_interleave.serve import self_signed as module
from edge_interleave.serve.self_signed import self_signed


def test_https_with_a_certificate_that_the_server_makes(tmp_path: Path) -> None:
    with serving(tmp_path, "--tls-self-signed", XDG_DATA_HOME=str(tmp_path / "data")) as server:
        assert server.url.startswith("https://127.0.0.1:")
        (line,) = [line for line in server.said if line.startswith("certificate: ")]
        cert = tmp_path / "data" / "edge-interleave" / "tls" / "cert.pem"
        assert str(cert) in line
        context = ssl.create_default_context(cafile=str(cert))
        for host in ("127.0.0.1", "localhost"):
            port = server.url.rpartition(":")[2]
            assert httpx.get(f"https://{host}:{port}/health", verify=context).json() == {"status": "ok"}
        shown = ssl.PEM_cert_to_DER_cert(cert.read_text())
        import hashlib

        digest = hashlib.sha256(shown).hexdigest().upper()
        assert ":".join(digest[at : at + 2] for at in range(0, 64, 2)) in line
        assert any(line.startswith("page: https://127.0.0.1:") for line in server.said)


def test_the_certificate_is_kept_and_only_its_owner_reads_the_key(tmp_path: Path) -> None:
    first = self_signed(tmp_path / "tls")
    again = self_signed(tmp_path / "tls")
    assert first == again
    for path in (first.key, first.cert):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(first.key.parent.stat().st_mode) == 0o700
    found = x509.load_pem_x509_certificate(first.cert.read_bytes())
    assert found.not_valid_after_utc - found.not_valid_before_utc < datetime.timedelta(days=398.5)
    names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert "localhost" in names.get_values_for_type(x509.DNSName)


def test_a_damaged_or_ending_certificate_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = self_signed(tmp_path)
    first.cert.write_text("damaged")
    second = self_signed(tmp_path)
    assert second.fingerprint != first.fingerprint
    # A key that belongs to another certificate.
    other = self_signed(tmp_path / "other")
    second.key.write_bytes(other.key.read_bytes())
    third = self_signed(tmp_path)
    assert third.fingerprint != second.fingerprint
    later = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=390)
    monkeypatch.setattr(module, "_now", lambda: later)
    assert self_signed(tmp_path).fingerprint != third.fingerprint


def test_wrong_options_are_one_line(tmp_path: Path) -> None:
    env = environment(tmp_path, XDG_DATA_HOME=str(tmp_path / "file"))
    assert "--tls-self-signed" in error_line(
        run("serve", "--tls-self-signed", "--tls-cert", __file__, "--tls-key", __file__, env=env), 2
    )
    (tmp_path / "file").write_text("")
    assert "--tls-cert" in error_line(run("serve", "--tls-self-signed", env=env), 2)
