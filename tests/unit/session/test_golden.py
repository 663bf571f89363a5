"""The bytes of a whole conversation, as they were when they were first written down."""

from __future__ import annotations

import json

import pytest

from p2p.session import Ended, Received
from tests.unit.session.golden import CASES, PATH, record
from tests.unit.session.helpers import config, drain, start


@pytest.mark.parametrize("name", CASES)
def test_the_golden_conversation_does_not_move(name):
    """Regenerate with `python -m tests.unit.session.golden`, and only with a reason that the change log tells."""
    assert record(*CASES[name]) == json.loads(PATH.read_text())[name]


def test_the_golden_bytes_are_understood_without_the_side_that_made_them():
    network_key, cipher = CASES["XX aes256gcm"]
    offered = (("bundle", "1"), ("cipher", cipher))
    b = config("b", network_key=network_key, network_name="golden", capabilities=offered, limits_rekey_every=3)
    r = start(b=b)[1]
    events = []
    for step in json.loads(PATH.read_text())["XX aes256gcm"]:
        if step["from"] == "initiator":
            r.receive_data(bytes.fromhex(step["bytes"]), 0.0)
            events += drain(r)
    received = [event for event in events if isinstance(event, Received)]
    assert [(event.flags, type(event.message).__name__) for event in received] == [
        (4, "Data"),
        (0, "Data"),
        (0, "WalAck"),
        (0, "Data"),
        (0, "Data"),
    ]
    assert received[-1].message.body == b"under another key"
    assert isinstance(events[-1], Ended)
    assert events[-1].clean
