"""What a capture shows beside the connections to the coordinator is told, whatever wraps it."""

from ipaddress import ip_address, ip_network

import pytest

from client.federation.capture import SENT_AGAIN, Border, Packet, reconcile

HOSPITAL, COORDINATOR, STRANGER, PACS = map(ip_address, ("10.0.0.5", "192.0.2.1", "203.0.113.9", "10.0.0.9"))
BORDER = Border(frozenset({COORDINATOR}), 9092, inside=(ip_network("10.0.0.0/8"),))


def spoken() -> list[Packet]:
    """A connection as it should be: opened from here, greeted, a question and its answer."""
    out = {"source": HOSPITAL, "target": COORDINATOR, "stream": 0, "source_port": 4000, "target_port": 9092}
    back = {"source": COORDINATOR, "target": HOSPITAL, "stream": 0, "source_port": 9092, "target_port": 4000}
    return [
        Packet(1.0, opens=True, ends_at=1, **out),  # pyright: ignore
        Packet(1.1, ends_at=1, **back),  # pyright: ignore
        Packet(1.2, ends_at=501, size=500, greets=True, **out),  # pyright: ignore
        Packet(1.3, ends_at=301, size=300, **back),  # pyright: ignore
        Packet(9.0, ends_at=701, size=200, **out),  # pyright: ignore
    ]


def failed(packets: list[Packet]) -> set[str]:
    return {check.name for check in reconcile(packets, (), BORDER) if not check.ok}


def test_what_should_be_there_is_in_order() -> None:
    assert failed(spoken()) == set()
    inside = Packet(2.0, HOSPITAL, PACS, stream=5, source_port=1, target_port=104, ends_at=9)
    assert failed([*spoken(), inside, Packet(2.1, PACS, HOSPITAL)]) == set()


@pytest.mark.parametrize(
    "packet",
    [
        Packet(2.0, HOSPITAL, STRANGER),  # a tunnel, ICMP, UDP: no connection of TCP
        Packet(2.0, HOSPITAL, COORDINATOR),  # a tunnel to the coordinator's own address
        Packet(2.0, HOSPITAL, STRANGER, stream=7, source_port=5, target_port=443, ends_at=700, size=700),  # no SYN
        Packet(2.0, HOSPITAL, COORDINATOR, stream=7, source_port=5, target_port=22, ends_at=700, size=700),
    ],
)
def test_whatever_else_leaves_is_told(packet: Packet) -> None:
    assert failed([*spoken(), packet]) == {"nobody else"}


def test_a_connection_from_outside_is_told_also_where_its_beginning_is_missing() -> None:
    answer = Packet(2.0, HOSPITAL, STRANGER, stream=7, source_port=22, target_port=5555, ends_at=700, size=700)
    assert "nobody else" in failed([*spoken(), answer])
    opened = Packet(2.0, STRANGER, HOSPITAL, stream=7, source_port=5555, target_port=22, opens=True, ends_at=1)
    assert "opened from here" in failed([*spoken(), opened])


def test_new_content_under_numbers_that_were_sent_is_told() -> None:
    out = {"source": HOSPITAL, "target": COORDINATOR, "stream": 0, "source_port": 4000, "target_port": 9092}
    again = [Packet(3.0 + n / 100, ends_at=701, size=700, **out) for n in range(SENT_AGAIN // 700 + 2)]  # pyright: ignore
    assert failed([*spoken(), *again]) == {"little is sent again"}
    older = [Packet(3.0, ends_at=501, size=500, **out)]  # pyright: ignore  # a line lost one packet
    assert failed([*spoken(), *older]) == set()
