"""What `mistudio serve` refuses before anything runs: peers and certificates that cannot work."""

from __future__ import annotations

from pathlib import Path

import pytest

from mistudio_cli.serve import _peers, _tls
from mistudio_core.errors import InvalidInput


def test_peers_are_other_services():
    config = _peers(["train=127.0.0.1:1", "explain=unix:/run/x"], ["find"], None)
    assert config is not None
    assert dict(config.targets) == {"train": "127.0.0.1:1", "explain": "unix:/run/x"}
    assert _peers([], ["find"], None) is None


@pytest.mark.parametrize("given", ["find=127.0.0.1:1", "train", "train=", "=127.0.0.1:1", "train=nowhere"])
def test_what_is_no_peer_is_refused(given: str):
    with pytest.raises(InvalidInput, match="peer"):
        _peers([given], ["find"], None)


def test_certificates_are_files_and_come_with_their_key(tmp_path: Path):
    pem = tmp_path / "x.pem"
    pem.write_text("")
    with pytest.raises(InvalidInput, match="readable PEM file"):
        _tls(tmp_path / "missing.pem", pem, None)
    with pytest.raises(InvalidInput, match="together"):
        _tls(None, pem, None)
    assert _tls(None, None, None) is None
