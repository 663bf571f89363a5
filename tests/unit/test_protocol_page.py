"""docs/protocol.md says what the code does: its tables are compared with the enums, its bytes are decoded."""

from __future__ import annotations

import re
from pathlib import Path

from p2p import framing, msg
from p2p.envelope import Envelope, EnvelopeFlag, MessageType
from p2p.errors import Reason

PAGE = (Path(__file__).parents[2] / "docs" / "protocol.md").read_text()


def section(number: int) -> str:
    return PAGE.split(f"\n## {number}. ")[1].split("\n## ")[0]


def rows(text: str) -> list[list[str]]:
    return [
        [cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("| ")
    ]


def test_message_types() -> None:
    table = {int(row[0]): row[1] for row in rows(section(4)) if row[0].isdigit()}
    assert table == {int(type): type.label for type in MessageType}


def test_every_message_has_a_heading_with_its_number() -> None:
    for type in MessageType:
        assert f"{type.label} ({int(type)})" in PAGE


def test_flags() -> None:
    names = {flag.name.replace("_", "").lower(): flag.value for flag in EnvelopeFlag if flag.name}
    table = {row[0].lower(): int(row[1]) for row in rows(section(3)) if row[0].lower() in names}
    assert table == names


def test_reasons() -> None:
    table = {int(row[0]): (row[1].strip("`"), int(row[3] or 0)) for row in rows(section(11)) if row[0].isdigit()}
    assert table == {int(reason): (reason.label, reason.penalty) for reason in Reason}


def test_varint_examples() -> None:
    found = 0
    for row in rows(section(1)):
        if re.fullmatch(r"`(?:[0-9a-f]{2} ?)+`", row[1]):
            value = 2**64 - 1 if "^" in row[0] else int(row[0])
            assert framing.encode_varint(value) == bytes.fromhex(row[1].strip("`"))
            found += 1
    assert found == 5


def test_ping_example() -> None:
    line = next(line for line in section(3).splitlines() if line.startswith("    1f"))
    (frame,), rest = framing.LengthPrefixVarint().decode(bytes.fromhex(line.replace(" ", "")))
    ping = Envelope.decode(frame)
    assert (rest, ping.msg_id, msg.decode_payload(ping.type, ping.payload)) == (b"", 1, msg.Ping(42))


def test_announcement_example() -> None:
    text = re.search(r"```json\n(.*)\n```", section(9))
    assert text is not None
    assert msg.DiscoveryAnnounce.from_json(text[1]).to_json() == text[1]


def test_lengths_of_contexts() -> None:
    contexts = re.findall(r'"(vix-p2p/[a-z]+/1)" \((\d+) bytes\)', PAGE)
    assert len(contexts) == 5
    for context, size in contexts:
        assert len(context) == int(size)
