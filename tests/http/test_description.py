"""/openapi.json says what is so: schemathesis asks the live server everything that it allows, and what it does not."""

from __future__ import annotations

import os
import re
from typing import Any

import hypothesis
import jsonschema_rs
import pytest
import trio
from hypothesis import HealthCheck, Phase, given, settings

import p2p
from http_control import HttpLimits
from tests.http.controlled import TOKEN, controlled, one_controlled

EXAMPLES = int(os.environ.get("HTTP_EXAMPLES", "3"))
"""Per operation and kind of input, the same in every run; `make proof` asks for more."""
STREAMS = ("/p2p/events", "/p2p/logs/live")
UNSAID = {"POST /p2p/connect"}
"""A schema does not say all that such a body must be: what a host and an endpoint look like, scheme by scheme."""


async def test_every_operation_and_every_status_is_described() -> None:
    async with one_controlled() as a:
        description = (await a.client.get("/openapi.json")).json()
    assert description["openapi"] == "3.1.0"
    operations = [operation for methods in description["paths"].values() for operation in methods.values()]
    assert len({operation["operationId"] for operation in operations}) == len(operations) == 31
    for operation in operations:
        responses = operation["responses"]
        assert {"400", "403", "405", "413", "421", "431", "500"} <= set(responses)
        assert ("401" in responses) == bool(operation["security"])
        for status, response in responses.items():
            if int(status) >= 400:
                assert response["content"]["application/json"]["schema"] == {"$ref": "#/components/schemas/Error"}
    required = {
        (operation["operationId"], parameter["name"])
        for operation in operations
        for parameter in operation["parameters"]
        if parameter["in"] == "query" and parameter["required"]
    }
    assert required == {("delete_p2p_routes", "target")}
    error = description["components"]["schemas"]["Error"]
    assert error["required"] == ["ok", "module", "status", "error", "message"]


@pytest.mark.parametrize(
    ("path", "body", "is_said"),
    [
        ("/connect", {"endpoint": "tcp://127.0.0.1:1"}, True),
        ("/connect", {"host": "127.0.0.1", "port": 1, "scheme": "tcp"}, True),
        ("/connect", {"endpoint": "tcp://127.0.0.1:1", "host": None}, True),
        ("/connect", {"endpoint": "tcp://127.0.0.1:1", "port": 1}, False),
        ("/connect", {"host": "127.0.0.1"}, False),
        ("/wal", {"payload": "x"}, True),
        ("/wal", {"payloads": ["x"], "payload": "x"}, False),
        ("/wal", {"payload": None}, False),
        ("/wal", {}, False),
        ("/wal", {"payload_b64": "eA=="}, True),
        ("/wal", {"payload_b64": "eA="}, False),
        ("/connect", {"endpoint": ""}, False),
        ("/connect", {"host": "127.0.0.1", "port": 65536}, False),
        ("/connect", {"endpoint": "tcp://127.0.0.1:1", "expect": "no name"}, False),
        ("/send", {"peer": "x", "channel": "y", "body": "z"}, True),
        ("/send", {"peer": "x", "channel": "y"}, False),
        ("/request", {"peer": "x", "channel": "y", "body": "z", "body_b64": "eg=="}, False),
    ],
)
async def test_what_excludes_what_is_described_as_it_is(path: str, body: dict[str, Any], is_said: bool) -> None:
    async with one_controlled() as a:
        description = (await a.client.get("/openapi.json")).json()
        answer = await a.client.post(f"/p2p{path}", json=body)
    (schema,) = (
        media["schema"] for media in description["paths"][f"/p2p{path}"]["post"]["requestBody"]["content"].values()
    )
    whole = {**schema, "components": description["components"]}
    assert jsonschema_rs.Draft202012Validator(whole).is_valid(body) is is_said
    assert (answer.status_code != 400) is is_said


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
async def test_no_input_makes_it_fail_or_say_what_is_not_described() -> None:
    async def hook(value: dict[str, Any]) -> object:
        return value if len(value) % 2 else [value]

    # It also tries wrong tokens, and would be sent away for a second after five.
    limits = HttpLimits(failures_per_s=1_000_000)
    node = p2p.Node(p2p.NodeConfig(node_id="a"))
    async with trio.open_nursery() as nursery:
        await nursery.start(node.run)
        async with controlled(node, admin_hook=hook, on_shutdown=lambda: None, on_log_level=str, limits=limits) as a:
            asked = await trio.to_thread.run_sync(ask_everything, a.url)
            assert len(asked) == 28  # all but the two streams and the description itself
            assert (await a.get("/status"))["running"] is True
        node.stop()


def ask_everything(url: str) -> list[str]:
    """Ask examples of every operation; returns which there were. In a thread: schemathesis waits for answers."""
    import schemathesis

    headers = {"x-auth-token": TOKEN}
    schema = schemathesis.openapi.from_url(f"{url}/openapi.json", headers=headers)
    asked = []
    for found in schema.get_all_operations():
        operation = found.ok()
        if operation.path in STREAMS:
            continue
        for mode in (schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE):
            strategy = operation.as_strategy(generation_mode=mode)

            @hypothesis.seed(1)
            @settings(
                max_examples=EXAMPLES, deadline=None, database=None, derandomize=False, phases=[Phase.generate],
                suppress_health_check=list(HealthCheck),
            )  # fmt: skip
            @given(case=strategy)
            def ask(case: Any) -> None:
                response = case.call(headers=headers)
                excluded = checks_without_a_point(case, response.status_code, response.text)
                case.validate_response(response, headers=headers, excluded_checks=excluded)

            try:
                ask()
            except hypothesis.errors.Unsatisfiable:
                assert mode is schemathesis.GenerationMode.NEGATIVE, "nothing about it can be wrong"
        asked.append(operation.label)
    return asked


def checks_without_a_point(case: Any, status: int, text: str) -> list[Any]:
    """Checks that would find something which is not so."""
    from schemathesis import checks

    # It makes wrong tokens in the one header, and takes no notice that the right one is sent in the other.
    found: list[Any] = [checks.ignored_auth]
    # A schema takes 1.0 for a whole number, and whoever sends that is told that it is none.
    is_spelt = status == 400 and re.search(r"Expected `int( \| null)?`, got `float`", text) is not None
    if case.operation.label in UNSAID or is_spelt:
        found.append(checks.positive_data_acceptance)
    if status in (502, 504):
        # Not the server has failed, but whoever it was to reach, or the time that it was given (from 1 ms on) was over:
        # the answers that are described for that.
        found.append(checks.not_a_server_error)
    if status == 413:
        # Too large is refused before it is read, and schemathesis does not count that as refused.
        found.append(checks.negative_data_rejection)
    return found
