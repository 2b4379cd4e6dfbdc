"""A real daemon against those who are no members, or are none any more: it goes on, and it lets nobody stay."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from pathlib import Path

import pytest
from OpenSSL import SSL

from appliance.lab.rig import Machine
from appliance.transport.address import Address
from tests.unit.transport.manners import DER, MLDSA, UNPARSED, UPGRADE, Manners, from_year_0
from tests.unit.transport.rig import HOST, raw_client

KNOCKS = 4  # one more than the restarts that the listener has
GRANT_S = 3


@pytest.fixture
def founder(tmp_path: Path) -> Machine:
    return Machine("one", tmp_path / "one")


async def knock(context: SSL.Context, port: int) -> None:
    async with raw_client(context, Address(HOST, port)) as client:
        with suppress(SSL.Error, EOFError, OSError):
            await client.handshake()
            await client.send(UPGRADE)
            await client.receive_all()


@pytest.mark.parametrize("manners", [UNPARSED, Manners(MLDSA, der=from_year_0(DER))], ids=["version 9", "year 0"])
def test_no_certificate_of_a_stranger_ends_the_daemon(founder: Machine, tmp_path: Path, manners: Manners) -> None:
    context = manners.context(tmp_path)
    with founder:
        founder.start()
        founder.x0t("mesh", "create", "plant")
        founder.wait(lambda seen: seen.batches >= 2)
        for _ in range(KNOCKS):
            asyncio.run(knock(context, founder.port))
        status = founder.status()
        assert status.turned_away == {"tls.certificate": KNOCKS}
        assert [job.name for job in status.jobs if job.failures] == []


def test_a_member_whose_grant_has_run_out_is_let_go_with_a_reason(founder: Machine, tmp_path: Path) -> None:
    with founder, Machine("two", tmp_path / "two") as two:
        founder.start()
        two.start()
        founder.x0t("mesh", "create", "plant")
        descriptor, key = tmp_path / "mesh.x0t", tmp_path / "two.key"
        founder.x0t("mesh", "show", "--export", str(descriptor))
        two.x0t("key", "show", "--export", str(key))
        two.x0t("mesh", "join", str(descriptor), "--peer", founder.address)
        founder.x0t("role", "grant", "--key", str(key), "member", "--expires", f"{GRANT_S}s")
        founder.wait(lambda seen: seen.links_up == 1)
        founder.wait(lambda seen: seen.links_up == 0, GRANT_S + 3)
        two.wait(lambda seen: seen.links_up == 0, 3)
