"""What only an operator does: the application's hook, the log level, the end."""

from __future__ import annotations

import json
from typing import Any, Final

import msgspec
import trio
from quart import Response

from http_control import shapes
from http_control.bugs import first_cause
from http_control.contained import contained
from http_control.operation import JSON, Call, Operation
from http_control.problem import Problem, problem_of


async def hook(call: Call) -> Response:
    """Run the application's hook."""
    admin_hook = call.control.options.admin_hook
    if admin_hook is None:
        raise Problem(501, "not_implemented", "this application has no admin hook", hint="give one as admin_hook")
    value: object = None
    with trio.move_on_after(call.control.options.limits.hook_s_max) as patience:
        try:
            value = await admin_hook(call.body)
        except BaseException as error:  # noqa: BLE001  # a hook is somebody else's code
            raise _failed(call, "the admin hook", error) from None
    if patience.cancelled_caught:
        raise Problem(504, "timeout", f"the hook took longer than {call.control.options.limits.hook_s_max:g} s")
    answer = value if isinstance(value, dict) else shapes.HookResult(result=value)
    try:
        # Not msgspec's encoder: it makes null of a number that is none, and the caller would not know.
        data = json.dumps(msgspec.to_builtins(answer, str_keys=True), allow_nan=False, ensure_ascii=False).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise Problem(502, "invalid_hook_answer", f"what the hook returned is not JSON: {error}") from None
    response = Response(data, content_type=JSON)
    response.headers["x-vix-route-heavy"] = "1"
    return response


def _failed(call: Call, what: str, error: BaseException) -> Problem:
    cause = first_cause(contained(error))
    call.control.hook_bugs.tell(f"{what} of the application failed", cause, call.node.config.clock.monotonic())
    return Problem(502, "hook_failed", f"{what} raised {type(cause).__name__}; the log has it")


async def log_level(call: Call) -> shapes.LevelSet:
    """Set the log level."""
    set_level = call.control.options.on_log_level
    if set_level is None:
        raise Problem(501, "not_implemented", "the log level belongs to the application that runs this node")
    try:
        set_level(call.body.level)
    except BaseException as error:  # noqa: BLE001  # as above
        raise _failed(call, "the hook on_log_level", error) from None
    return shapes.LevelSet(level=call.body.level)


async def shutdown(call: Call) -> shapes.Stopping:
    """Stop the process."""
    stop = call.control.options.on_shutdown
    if stop is None:
        raise problem_of(501)
    try:
        stop()
    except BaseException as error:  # noqa: BLE001  # as above
        raise _failed(call, "the hook on_shutdown", error) from None
    return shapes.Stopping()


OPERATIONS: Final[tuple[Operation, ...]] = (
    Operation(
        "POST",
        "/admin/hook",
        "Run the application's hook",
        hook,
        JSON,
        errors=(501, 502, 504),
        body=dict[str, Any],
    ),
    Operation(
        "PUT",
        "/log-level",
        "Set the log level of the process",
        log_level,
        shapes.LevelSet,
        errors=(501, 502),
        body=shapes.LogLevel,
    ),
    Operation(
        "POST",
        "/shutdown",
        "Stop the process in order",
        shutdown,
        shapes.Stopping,
        status=202,
        errors=(501, 502),
        body=shapes.Body,
    ),
)
