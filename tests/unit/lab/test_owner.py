"""Whose a namespace is, from its name alone."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from appliance.lab.link import token_bucket
from appliance.lab.namespaces import LabError, Owner, owner_of


def test_a_name_tells_its_owner() -> None:
    me = Owner.me()
    assert owner_of(me.name(3, "gateway-1")) == me
    assert me.pid == os.getpid()
    assert me.lives()


@pytest.mark.parametrize(
    "name", ["x0t-gateway", "x0t-1-2-gateway", "blue", "x0t-1-2-3-", "x0t-1-2-3-a/b", "y0t-1-2-3-a"]
)
def test_a_name_of_another_form_has_no_owner(name: str) -> None:
    assert owner_of(name) is None


def test_a_process_that_has_the_number_of_the_owner_is_not_the_owner() -> None:
    me = Owner.me()
    assert not Owner(me.pid, me.start - 1).lives()


def test_an_owner_that_has_ended_is_dead_even_before_it_is_reaped() -> None:
    code = "from appliance.lab.namespaces import Owner; me = Owner.me(); print(me.pid, me.start)"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        pid, start = child.stdout.read().split()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert not Owner(int(pid), int(start)).lives()
    assert not Owner(int(pid), int(start)).lives()


@pytest.mark.parametrize(
    "rate, words",
    [
        ("500kbit", "tbf rate 500kbit burst 16384b latency 50ms"),
        ("10mbit", "tbf rate 10mbit burst 16384b latency 50ms"),
        ("1gbit", "tbf rate 1gbit burst 500000b latency 50ms"),
    ],
)
def test_a_rate_becomes_a_token_bucket(rate: str, words: str) -> None:
    assert token_bucket(rate) == words


@pytest.mark.parametrize("rate", ["10", "10 mbit", "fast", "1.5mbit", "10mbit latency 1s"])
def test_what_is_no_rate_is_refused(rate: str) -> None:
    with pytest.raises(LabError, match="is no rate"):
        token_bucket(rate)
