"""Where an engine may be: every spelling of a private address, names that stand for one, redirects."""

from __future__ import annotations

import ipaddress
import socket
import ssl
from dataclasses import replace

import pytest
import trustme

from mistudio_core.errors import InvalidInput, Unavailable
from mistudio_explain.engines.addresses import refusal
from mistudio_explain.engines.base import ChatRequest, Failure, Reply
from mistudio_explain.engines.factory import create_engine
from mistudio_explain.engines.settings import EngineSettings, load_engines
from tests.support.chatservers import running

METADATA = "169.254.169.254"
NEVER = [
    METADATA,
    "fe80::1",
    "::ffff:169.254.169.254",
    "64:ff9b::a9fe:a9fe",
    "2002:a9fe:a9fe::1",
    "0.0.0.0",
    "::",
    "224.0.0.1",
    "ff02::1",
    "240.0.0.1",
]
PRIVATE = [
    "10.1.2.3",
    "172.16.0.1",
    "192.168.1.1",
    "100.64.0.1",
    "fd00::1",
    "::ffff:10.0.0.1",
    "64:ff9b::a00:1",
    "2002:a00:1::1",
]
PUBLIC = ["1.1.1.1", "2606:4700:4700::1111", "::ffff:1.1.1.1"]


def why(address, kind="openai_compatible", host="name.example", *, allow_private=False):
    return refusal(ipaddress.ip_address(address), kind, host, allow_private=allow_private)


def test_addresses_that_nobody_may_have():
    for address in NEVER:
        assert why(address, allow_private=True), address
        assert why(address, "ollama"), address


def test_private_addresses_only_where_the_administrator_says_so():
    for address in PRIVATE:
        assert "private" in why(address), address
        assert not why(address, allow_private=True), address
        assert not why(address, "ollama"), address
    for address in PUBLIC:
        assert not why(address), address


def test_this_machine_only_by_its_own_names():
    assert not why("127.0.0.1", host="localhost")
    assert not why("::1", host="::1")
    assert why("127.0.0.1", host="name.example")
    assert why("127.0.0.1", host="2130706433")
    assert why("::ffff:127.0.0.1", host="name.example")


@pytest.mark.parametrize(
    "url",
    [
        "http://name.example/v1",
        "http://10.0.0.1/v1",
        "https://10.0.0.1/v1",
        "https://169.254.169.254/v1",
        "https://[fd00::1]/v1",
        "ftp://name.example/v1",
        "gopher://127.0.0.1:70/",
        "file:///etc/passwd",
        "https://user:sk-canary-5f1c@name.example/v1",
        "https://name.example/v1?key=1",
        "https://name.example:99999/v1",
        "https://",
        "https://[::1/v1",
        "https://0177.0.0.1/v1",
        "https://2130706433/v1",
        "https://0x7f.1/v1",
        "https://127.1/v1",
    ],
)
def test_the_engines_file_refuses(tmp_path, url):
    path = tmp_path / "engines.toml"
    path.write_text(f'[engines.a]\nkind = "openai_compatible"\nmodel = "m"\nbase_url = "{url}"\n')
    with pytest.raises(InvalidInput, match=r"engines\.a\.base_url") as refused:
        load_engines(path)
    assert "canary" not in str(refused.value)


def settings(url, **values):
    table = {"name": "a", "kind": "openai_compatible", "model": "m", "base_url": url, "attempts": 1}
    return EngineSettings(**{**table, **values})


async def ask(settings):
    engine = create_engine(settings)
    try:
        return await engine.chat(ChatRequest(prompt="x"))
    finally:
        await engine.close()


class Names:
    """A name service that answers otherwise each time it is asked."""

    def __init__(self, monkeypatch, *answers):
        self.answers, self.asked = list(answers), 0
        real = socket.getaddrinfo

        def look_up(host, port, *args, **kwargs):
            if str(host) != "rebind.example":
                return real(host, port, *args, **kwargs)
            self.asked += 1
            found = self.answers.pop(0)
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (a, port)) for a in found]

        monkeypatch.setattr(socket, "getaddrinfo", look_up)


async def test_a_name_that_stands_for_a_private_address_too(monkeypatch):
    with running("openai") as server:
        Names(monkeypatch, ["93.184.216.34", "127.0.0.1"])
        failure = await ask(settings(f"https://rebind.example:{server.server_address[1]}/v1"))
        assert server.seen == []
    assert isinstance(failure, Failure)
    assert failure.kind == "refused"
    assert "allow_private" in failure.message


async def test_a_name_is_looked_up_once(monkeypatch):
    """What a name service says later changes nothing: the first, checked address is what is connected to."""
    with running("openai") as server:
        names = Names(monkeypatch, ["127.0.0.1"], [METADATA])
        table = settings(f"http://rebind.example:{server.server_address[1]}/v1", allow_private=True)
        engine = create_engine(table)
        for _ in range(2):
            assert isinstance(await engine.chat(ChatRequest(prompt="x")), Reply)
        await engine.close()
        assert names.asked == 1
        assert server.seen[0][1]["Host"].startswith("rebind.example:")


async def test_the_name_is_what_the_certificate_is_checked_for(monkeypatch, tmp_path):
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("rebind.example").configure_cert(context)
    Names(monkeypatch, *[["127.0.0.1"]] * 3)
    with running("openai") as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        table = settings(f"https://rebind.example:{server.server_address[1]}/v1", allow_private=True)
        trusting = replace(table, ca_file=str(tmp_path / "ca.pem"))
        assert isinstance(await ask(trusting), Reply)
        stranger = await ask(table)
        other = await ask(replace(trusting, base_url=table.url.replace("rebind.example", "127.0.0.1")))
    assert isinstance(stranger, Failure)
    assert isinstance(other, Failure)
    with pytest.raises(Unavailable, match="ca_file"):
        create_engine(replace(table, ca_file=str(tmp_path / "none")))


async def test_a_redirect_is_not_followed():
    with running("openai") as server:
        server.mode = "redirect"
        failure = await ask(settings(server.url))
        assert isinstance(failure, Failure)
        assert "redirect" in failure.message
        assert len(server.seen) == 1
