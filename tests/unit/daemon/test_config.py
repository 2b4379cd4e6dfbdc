from __future__ import annotations

import json
from pathlib import Path

import pytest

from appliance.core.errors import InputError
from appliance.core.ids import NodeId
from appliance.core.limits import Limits
from appliance.daemon.config import Config, load, parse
from appliance.daemon.main import start

NODE = NodeId(bytes(32))


def test_an_empty_file_gives_the_defaults() -> None:
    assert parse("") == Config()


def test_a_missing_file_gives_the_defaults_unless_it_was_named(tmp_path: Path) -> None:
    assert load(tmp_path / "none.toml", required=False) == Config()
    with pytest.raises(InputError, match="there is no such file"):
        load(tmp_path / "none.toml", required=True)


def test_all_tables_are_read() -> None:
    config = parse(
        """
        data_dir = "/srv/x0t"
        [listen]
        port = 0
        [[peers]]
        address = "gateway-1:7330"
        [sync]
        redial_max = "2m"
        [limits]
        parked_bytes = "64MiB"
        handshake_s = "5s"
        """
    )
    assert config.data_dir == "/srv/x0t"
    assert config.listen.port == 0
    assert config.peers[0].address == "gateway-1:7330"
    assert config.sync.redial_max == 120
    limits = config.effective_limits()
    assert (limits.parked_bytes, limits.handshake_s) == (64 << 20, 5)
    assert (limits.redial_max_s, limits.peer_backoff_max_s) == (120, Limits().peer_backoff_max_s)
    assert limits.batch_bytes == Limits().batch_bytes


@pytest.mark.parametrize(
    "text,key,says",
    [
        ("data-dir = '/x'", "config.unknown_key", "did you mean `data_dir`?"),
        ("[listen]\nprot = 1", "config.unknown_key", "did you mean `listen.port`?"),
        ("[[peers]]\nadress = 'a:1'", "config.unknown_key", "did you mean `peers[0].address`?"),
        ("[limits]\nbatch_bytes = '1KiB'", "config.unknown_key", "limits.batch_bytes"),
        ("zzz = 1", "config.unknown_key", "known here: admission, control, data_dir"),
        ("[listen]\nport = 70000", "config.value", "listen.port"),
        ("[listen]\nport = '1'", "config.value", "expected `int`"),
        ("[sync]\nredial_max = 30", "config.value", "expected text with a unit"),
        ("[sync]\nredial_max = '30 parsecs'", "config.value", "sync.redial_max"),
        ("[sync]\nredial_max = '500ms'", "config.value", "in whole seconds."),
        ("[[peers]]\naddress = 'nowhere'", "config.value", "peers[0].address"),
        ("[[peers]]\naddress = 'a:65536'", "config.value", "peers[0].address"),
        ("[[peers]]\naddress = 'a:0'", "config.value", "the port from 1 to 65535"),
        ("node.endpoints = ['a:1', 'b:99999']", "config.value", "node.endpoints[1]"),
        ('node.endpoints = ["a\\u0000:1"]', "config.value", "node.endpoints"),
        ('data_dir = "/a\\u0000"', "config.value", "data_dir"),
        ('control.socket = "/a\\u0000"', "config.value", "control.socket"),
        ("limits.connections = 99999999999999999999999999", "config.value", "limits.connections"),
        ("a = " + "[" * 5000, "config.file", "nested too deeply"),
        ("[[peers]]\naddress = 'a:1'\nnode = 'node1xx'", "config.value", "peers[0].node"),
        ("[pq]\nprovider = 'rot13'", "config.value", "pq.provider"),
        ("[pq]\nprovider = 'rot13'", "config.value", "choose one of auto, liboqs, openssl."),
        ("[log]\nlevel = 'all'", "config.value", "choose one of debug, info, warning, error."),
        ("listen = 5", "config.value", "listen"),
        ("port = ", "config.file", "Invalid value"),
    ],
)
def test_what_is_wrong_is_named_with_its_file_and_place(text: str, key: str, says: str) -> None:
    with pytest.raises(InputError) as caught:
        parse(text, "/etc/x0t/x0td.toml")
    assert caught.value.key == key
    assert says in caught.value.message
    assert "/etc/x0t/x0td.toml" in caught.value.message
    assert not caught.value.message.endswith(("..", "?."))


@pytest.mark.parametrize("address", ["1.2.3.4:99999", "gw:0", "gw", ":1", "::1:1", "a b:1", "gw:1\n", f"{NODE}@gw:1"])
@pytest.mark.parametrize(
    "setting, text", [("peers[0].address", "[[peers]]\naddress = "), ("node.endpoints[0]", "[node]\nendpoints = [")]
)
def test_an_address_that_the_node_could_not_use_is_refused_in_words(address: str, setting: str, text: str) -> None:
    with pytest.raises(InputError) as caught:
        parse(text + json.dumps(address) + ("]" if "[node]" in text else ""))
    assert (caught.value.key, caught.value.detail["name"]) == ("config.value", setting)
    assert caught.value.detail["reason"].startswith("write host:port")


def test_the_daemons_help_has_its_exit_codes_and_its_environment(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        start(["--help"])
    shown = capsys.readouterr().out
    assert "Exit codes: 0" in shown
    assert "$X0T_CONFIG" in shown
