from __future__ import annotations

import pytest

from appliance.core import paths

USER = {"HOME": "/home/a"}


@pytest.mark.parametrize(
    "env,uid,expected",
    [
        (USER, 0, ("/var/lib/x0t", "/etc/x0t/x0td.toml", "/run/x0t/x0td.sock")),
        (
            USER,
            1,
            ("/home/a/.local/share/x0t", "/home/a/.config/x0t/x0td.toml", "/home/a/.local/share/x0t/run/x0td.sock"),
        ),
        (
            USER | {"XDG_DATA_HOME": "/d", "XDG_CONFIG_HOME": "/c", "XDG_RUNTIME_DIR": "/run/user/1"},
            1,
            ("/d/x0t", "/c/x0t/x0td.toml", "/run/user/1/x0t/x0td.sock"),
        ),
        (
            USER | {"XDG_DATA_HOME": "d", "XDG_RUNTIME_DIR": "r"},  # relative values are ignored
            1,
            ("/home/a/.local/share/x0t", "/home/a/.config/x0t/x0td.toml", "/home/a/.local/share/x0t/run/x0td.sock"),
        ),
    ],
)
def test_both_sides_agree_on_the_places(env: dict[str, str], uid: int, expected: tuple[str, str, str]) -> None:
    assert (paths.data_dir(env, uid), paths.config_file(env, uid), paths.control_socket(env, uid)) == expected
