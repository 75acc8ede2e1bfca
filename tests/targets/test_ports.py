"""The port table, and who may have a port."""

import socket

import pytest

from lab.targets import LabError
from lab.targets.local.ports import BLOCK, DEFAULT_BASE, HIGHEST, OFFSETS, Ports, check_free, free_block, is_free


def test_every_name_has_its_own_port_inside_the_block():
    assert len(set(OFFSETS.values())) == len(OFFSETS)
    assert all(0 <= offset < BLOCK for offset in OFFSETS.values())
    assert DEFAULT_BASE + BLOCK <= HIGHEST


def test_ports_stay_below_those_that_linux_hands_out():
    """A client's outgoing connection must never sit on a port of ours."""
    with pytest.raises(LabError, match="out of range"):
        Ports(HIGHEST - BLOCK + 2)
    with pytest.raises(LabError, match="out of range"):
        Ports(80)


def test_a_taken_port_is_reported_with_its_holder_and_a_way_out(ports):
    with socket.create_server(("127.0.0.1", ports["kafka"])), pytest.raises(LabError) as caught:
        check_free(ports, ["front_door", "kafka"])
    assert str(caught.value).startswith(f"port {ports['kafka']} (kafka) is taken by ")
    assert "pid" in str(caught.value)
    assert "lab up --port-base" in str(caught.value)


def test_a_port_that_is_taken_on_all_addresses_counts_as_taken(ports):
    with socket.create_server(("0.0.0.0", ports["redis"])):
        assert not is_free(ports["redis"])
    assert is_free(ports["redis"])


def test_two_runs_never_get_the_same_block():
    with free_block() as one, free_block() as other:
        assert one.base != other.base
