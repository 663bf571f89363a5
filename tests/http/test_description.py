"""/openapi.json says what is so: schemathesis asks the live server everything that it allows, and what it does not."""

from __future__ import annotations

import os
from typing import Any

import hypothesis
import pytest
import trio
from hypothesis import HealthCheck, Phase, given, settings

import p2p
from http_control import HttpLimits
from tests.http.controlled import TOKEN, controlled, one_controlled

EXAMPLES = int(os.environ.get("HTTP_EXAMPLES", "10"))
"""Per operation and kind of input, the same in every run; `make proof` asks for more."""
STREAMS = ("/p2p/events", "/p2p/logs/live")


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
    excluded = [
        # It breaks one of two ways to show the token while the other stays: test_who_may knows better.
        schemathesis.checks.ignored_auth,
        # What a schema cannot say (a host is one, exactly one kind of payload) is refused with 400.
        schemathesis.checks.positive_data_acceptance,
    ]
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
                # Too large is refused before it is read, and schemathesis does not count that as refused.
                too_large = [schemathesis.checks.negative_data_rejection] if response.status_code == 413 else []
                case.validate_response(response, headers=headers, excluded_checks=[*excluded, *too_large])

            try:
                ask()
            except hypothesis.errors.Unsatisfiable:
                assert mode is schemathesis.GenerationMode.NEGATIVE, "nothing about it can be wrong"
        asked.append(f"{operation.method} {operation.path}")
    return asked
