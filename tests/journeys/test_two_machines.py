"""The README's journey from nothing to two replicas, with the commands that it names: real processes, real PQ TLS."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from appliance.lab.rig import Machine, machines, wait_equal


def test_two_machines_from_nothing_to_one_state(tmp_path: Path) -> None:
    with machines(tmp_path, ("gateway-1", "gateway-2")) as (one, two):
        for machine in (one, two):
            machine.start()
        # on the first machine
        one.x0t("mesh", "create", "plant-7")
        one.x0t("mesh", "show", "--export", str(tmp_path / "plant-7.x0t"))
        # on the second
        two.x0t("key", "show", "--export", str(tmp_path / "gateway-2.key"))
        # on the first again, with the key that was carried over
        one.x0t("role", "grant", "--key", str(tmp_path / "gateway-2.key"), "operator", "admin", "--expires", "90d")
        # on the second, with the descriptor that was carried over
        two.x0t("mesh", "join", str(tmp_path / "plant-7.x0t"), "--peer", one.address)
        two.wait(lambda seen: seen.links_up == 1)
        wait_equal((one, two))
        # both write, both see
        node = json.loads(two.x0t("key", "show", "--json"))["node"]
        one.x0t("tag", "set", node, "line-1")
        two.x0t("tag", "set", node, "camera")
        one.wait(lambda _seen: "gateway-2" in one.x0t("tag", "list", "--json"))  # what it says of itself has come
        wait_equal((one, two))
        shown = {machine.name: json.loads(machine.x0t("tag", "list", "--json")) for machine in (one, two)}
        assert shown["gateway-1"] == shown["gateway-2"]
        assert next(n["tags"] for n in shown["gateway-1"] if n["node"] == node) == ["camera", "line-1"]
        # both survive a restart and find each other again
        for machine in (one, two):
            assert machine.stop() < 2
        for machine in (two, one):
            machine.start()
        two.wait(lambda seen: seen.links_up == 1)
        wait_equal((one, two))


def test_a_machine_that_was_never_granted_a_role_is_turned_away_until_it_is(tmp_path: Path) -> None:
    with machines(tmp_path, ("founder", "stranger")) as (founder, stranger):
        founder.start()
        stranger.start()
        founder.x0t("mesh", "create", "plant")
        founder.x0t("mesh", "show", "--export", str(tmp_path / "mesh.x0t"))
        stranger.x0t("key", "show", "--export", str(tmp_path / "key"))
        stranger.x0t("mesh", "join", str(tmp_path / "mesh.x0t"), "--peer", founder.address)
        founder.wait(lambda _seen: founder.status().turned_away.get("tls.peer_unknown", 0) > 0)
        assert stranger.status().batches == 0
        assert stranger.links().links[0].note != ""
        founder.x0t("role", "grant", "--key", str(tmp_path / "key"), "member")
        stranger.wait(lambda seen: seen.links_up == 1)
        wait_equal((founder, stranger))


def test_two_islands_write_apart_and_agree_when_they_meet(tmp_path: Path) -> None:
    with machines(tmp_path, ("one", "two")) as (one, two):
        together(tmp_path, one, two)
        node = two.key().node
        for machine in (one, two):
            machine.x0t("link", "cut")
            assert machine.status().links_up == 0
        one.x0t("node", "name", node, "named by one")
        two.x0t("node", "name", node, "named by two")
        assert one.status().digest != two.status().digest
        for machine in (one, two):
            machine.x0t("link", "restore")
        wait_equal((one, two))
        conflicts = [json.loads(machine.x0t("replica", "conflicts", "--json")) for machine in (one, two)]
        assert conflicts[0] == conflicts[1]
        assert len(conflicts[0]) == 1


def test_a_revoked_machine_is_cut_off_and_what_it_wrote_unseen_has_no_effect(tmp_path: Path) -> None:
    with machines(tmp_path, ("one", "two")) as (one, two):
        together(tmp_path, one, two)
        node = two.key().node
        two.x0t("link", "cut")
        one.x0t("role", "revoke", node, "admin", "--yes")
        two.x0t("tag", "set", node, "unseen")
        two.x0t("link", "restore")
        wait_equal((one, two))
        for machine in (one, two):
            kept = json.loads(machine.x0t("replica", "no-effect", "--json"))
            assert [(entry["author"], entry["reason"]) for entry in kept] == [(node, "revoked")]
        one.x0t("role", "revoke", node, "--yes")
        one.wait(lambda seen: seen.links_up == 0)


def test_the_commands_refuse_with_the_documented_exit_codes(tmp_path: Path) -> None:
    with machines(tmp_path, ("one", "two")) as (one, two):
        together(tmp_path, one, two, "member")
        node = two.key().node
        two.x0t("tag", "set", node, "mine", expect=3)  # a member may not: denied
        one.x0t("mesh", "create", "again", expect=4)  # state
        one.x0t("replica", "show", "batch1x", expect=2)  # input
        two.stop()
        two.x0t("replica", "status", expect=5)  # unavailable


def test_a_restored_backup_freezes_its_node_until_an_owner_decides(tmp_path: Path) -> None:
    with machines(tmp_path, ("owner", "restored")) as (owner, restored):
        together(tmp_path, owner, restored)
        node = restored.key().node
        restored.stop()
        backup = tmp_path / "backup"
        shutil.copytree(restored.data_dir, backup)
        restored.start()
        restored.wait(lambda seen: seen.links_up == 1)
        restored.x0t("tag", "set", node, "before")
        wait_equal((owner, restored))
        lost = json.loads(owner.x0t("replica", "log", "--author", node, "--limit", "1", "--json"))[0]["batch"]
        owner.stop()
        restored.stop()
        shutil.rmtree(restored.data_dir)
        shutil.copytree(backup, restored.data_dir)
        restored.start()
        restored.x0t("tag", "set", node, "after")  # under a number that was used before
        owner.start()
        restored.wait(lambda seen: seen.links_up == 1)
        wait_equal((owner, restored))
        for machine in (owner, restored):
            assert machine.status().frozen == (node,)
        assert "restored backup" in restored.x0t("replica", "conflicts", "--json")
        restored.x0t("tag", "set", node, "more", expect=3)
        owner.x0t("author", "thaw", node, "--keep", lost, "--reason", "backup", "--yes")
        wait_equal((owner, restored))
        assert restored.status().frozen == ()
        restored.x0t("tag", "set", node, "more")
        wait_equal((owner, restored))
        nodes = json.loads(owner.x0t("node", "list", "--json"))
        assert next(n["tags"] for n in nodes if n["node"] == node) == ["before", "more"]


def together(tmp_path: Path, one: Machine, two: Machine, *roles: str) -> None:
    for machine in (one, two):
        machine.start()
    one.x0t("mesh", "create", "plant")
    one.x0t("mesh", "show", "--export", str(tmp_path / "mesh.x0t"))
    two.x0t("key", "show", "--export", str(tmp_path / "key"))
    one.x0t("role", "grant", "--key", str(tmp_path / "key"), *(roles or ("admin", "member")))
    two.x0t("mesh", "join", str(tmp_path / "mesh.x0t"), "--peer", one.address)
    two.wait(lambda seen: seen.links_up == 1)
    wait_equal((one, two))


@pytest.mark.parametrize("order", [("one", "two"), ("two", "one")])
def test_two_machines_that_dial_each_other_keep_one_link(tmp_path: Path, order: tuple[str, str]) -> None:
    with machines(tmp_path, ("one", "two")) as (one, two):
        together(tmp_path, one, two)
        one.stop()
        two.stop()
        one.peer_with(two)
        two.peer_with(one)
        by_name = {"one": one, "two": two}
        for name in order:
            by_name[name].start()
        wait_equal((one, two))
        for machine in (one, two):
            machine.wait(lambda seen: seen.links_up == 1)
            links = machine.links().links
            assert [link.state for link in links if link.state == "up"] == ["up"]


def test_a_machine_that_lost_its_log_but_not_its_key_does_not_contradict_itself(tmp_path: Path) -> None:
    with machines(tmp_path, ("one", "two")) as (one, two):
        together(tmp_path, one, two)
        node = two.key().node
        one.x0t("node", "name", node, "press")
        wait_equal((one, two))
        two.stop()
        for directory in two.data_dir.glob("mesh1*"):
            shutil.rmtree(directory)
        two.start()
        wait_equal((one, two))
        two.x0t("node", "name", node, "press, again")
        wait_equal((one, two))
        assert one.status().frozen == two.status().frozen == ()
