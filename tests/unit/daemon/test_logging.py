from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from appliance.core.ids import NodeId
from appliance.daemon.logging import plain
from appliance.trust.pqc import provider

NODE = NodeId(b"\1" * 32)


@pytest.mark.parametrize(
    "value,shown",
    [
        (NODE, str(NODE)),
        (Path("/a"), "/a"),
        (b"secret seed", "<11 bytes>"),
        (bytearray(b"secret"), "<6 bytes>"),
        ([b"x", 1, "a"], ["<1 bytes>", 1, "a"]),
        (provider("openssl").mldsa_keypair(b"\1" * 32), "<OpensslSigningKey>"),
        ({"key": "value"}, "<dict>"),
        (None, None),
        (True, True),
    ],
)
def test_only_plain_values_are_logged_as_they_are(value: object, shown: object) -> None:
    assert plain(value) == shown


_LOG = """
import sys
from appliance.daemon import logging
logging.configure("info", "auto", {env})
import structlog
structlog.get_logger().info("area.what", node="n", seed=b"xx")
structlog.get_logger().debug("area.quiet")
print("rich" in sys.modules, "click" in sys.modules)
"""


def test_into_a_pipe_events_are_json_and_no_terminal_library_is_loaded() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _LOG.format(env={})],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[3],
    )
    line = json.loads(done.stderr)
    assert (line["event"], line["level"], line["node"], line["seed"]) == ("area.what", "info", "n", "<2 bytes>")
    assert done.stdout.split() == ["False", "False"]
