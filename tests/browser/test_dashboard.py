"""The dashboard in a real browser, against real nodes."""

from __future__ import annotations

import json
import re
import subprocess
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
import trio
from quart_trio import QuartTrio

import http_control
import p2p
from tests.browser.chromium import Visit, ask, killable, visit
from tests.http.controlled import TOKEN, controlled
from tests.ports import free_port
from tests.programs import needs

if TYPE_CHECKING:
    from playwright.sync_api import Route

pytestmark = [needs("chromium"), pytest.mark.slow]
OTHER_TOKEN = "another-token-of-the-tests"

LONG_NAME = "a-peer-with-the-longest-name-that-there-may-be".ljust(64, "-")
COVERED = """() => {
    const dialog = document.getElementById("peer-dialog");
    const covered = [];
    for (dialog.scrollTop = 0; ; dialog.scrollTop += 8) {
        const before = dialog.scrollTop;
        for (const button of dialog.querySelectorAll("menu button")) {
            const { left, top, width, height } = button.getBoundingClientRect();
            for (const y of [top + 3, top + height / 2, top + height - 3])
                if (!button.contains(document.elementFromPoint(left + width / 2, y)))
                    covered.push([button.id, before, y]);
        }
        if (before + dialog.clientHeight >= dialog.scrollHeight - 1) return covered;
    }
}"""
"""Where in the dialog of a peer, scrolled from its beginning to its end, something lies over a button of its menu."""
HOSTILE = '<img src=x onerror="document.title=1"><script>alert(1)</script>'


async def at_once(call: Callable[[], None]) -> None:
    """Call a function of a node, for `ask`."""
    call()


def told_peer(**fields: Any) -> dict[str, Any]:
    """A connected peer as `/events` tells of it."""
    return {
        "id": "ab" * 32, "node_id": "b", "state": "connected", "endpoint": "tcp://192.0.2.1:9001", "secure": True,
        "direct": True, "connected_ms": 1, "last_seen_ms": 1, "rtt_ms": 1.5, "bytes_in": 1, "bytes_out": 1,
        "outbox_bytes": 0, "lag_records": 0, "behind_records": 0, "ahead_records": 0,
    } | fields  # fmt: skip


def told(peers: list[dict[str, Any]], **fields: object) -> Callable[[Route], None]:
    """Answers `/events` with one tick in which these are the peers, and these are of the status."""

    def answer(route: Route) -> None:
        headers = {"x-auth-token": route.request.headers.get("x-auth-token", "")}
        if not headers["x-auth-token"]:
            route.continue_()
            return
        status = route.fetch(url=route.request.url.replace("/events", "/status"), headers=headers).json()
        events = {"status": status | fields, "peers": {"peers": peers}}
        body = "".join(f"event: {name}\ndata: {json.dumps(value)}\n\n" for name, value in events.items())
        route.fulfill(status=200, content_type="text/event-stream", body=body)

    return answer


async def test_it_asks_for_the_token_and_keeps_it_to_this_tab() -> None:
    def steps(seen: Visit) -> None:
        page = seen.page
        page.goto(seen.url)
        seen.unlock("not the token")
        seen.until("#token-error", "not the node's")
        seen.unlock("no header \u2603 can carry it")
        seen.until("#token-error", "not the node's")
        assert "\u2603" not in page.evaluate("JSON.stringify({...sessionStorage})")
        seen.unlock(TOKEN)
        seen.until_live()
        seen.until("#node-name", "a")
        assert TOKEN not in page.url
        assert TOKEN not in page.evaluate("JSON.stringify({...localStorage})")
        assert TOKEN in page.evaluate("JSON.stringify({...sessionStorage})")
        assert page.context.cookies() == []
        page.reload()
        seen.until_live()
        page.click("#lock")
        page.click("#token-forget")
        page.locator("#token-dialog[open]").wait_for()
        assert TOKEN not in page.evaluate("JSON.stringify({...sessionStorage})")

    async with p2p.open_node(node_id="a") as node, controlled(node) as a:
        await visit(a.url, steps)


async def test_it_shows_a_peer_that_joins_and_how_it_leaves() -> None:
    def steps(seen: Visit) -> None:
        page = seen.page
        seen.open(TOKEN)
        seen.until("#peers-empty", "Nobody is known yet")
        ask(b.connect, a.node.endpoints[0])
        seen.until("#peers-table tbody tr", "shop-2")
        seen.until("#peers-table .state.connected", "connected")
        seen.until("#card-peers", "1")
        seen.until("#picture .node text", "shop-2")
        page.locator("#picture .link.ok").wait_for(state="attached")
        seen.until("#logs-lines li", "connected to shop-2")
        ask(at_once, b.stop)
        page.locator("#peers-table .state.disconnected").wait_for()
        page.locator("#peers-state").select_option("connected")
        page.locator("#peers-table tbody tr").wait_for(state="detached")
        seen.until("#logs-lines li", "lost shop-2")
        seen.until("#card-peers", "0")

    async with (
        p2p.open_node(node_id="a") as node,
        p2p.open_node(node_id="shop-2") as b,
        controlled(node, stats_every_ms=200) as a,
    ):
        await visit(a.url, steps)


async def test_it_connects_and_says_what_came_of_it() -> None:
    def steps(seen: Visit) -> None:
        page = seen.page
        seen.open(TOKEN, "/connect")
        assert page.evaluate("document.activeElement.id") == "connect-endpoint"
        page.keyboard.type("nonsense")
        page.keyboard.press("Enter")
        page.locator("#connect-result.bad").filter(has_text="HOST:PORT").wait_for()
        page.fill("#connect-endpoint", f"127.0.0.1:{silent}")
        page.click("#connect button")
        page.locator("#connect-result.bad").filter(has_text="refused").wait_for()
        page.fill("#connect-endpoint", str(b.endpoints[0]))
        page.click("#connect button")
        seen.until("#connect-result.good", "Connected to shop-2")
        page.fill("#connect-endpoint", str(b.endpoints[0]))
        page.click("#connect button")
        seen.until("#connect-result.good", "already")

    silent = free_port()
    async with (
        p2p.open_node(node_id="a") as node,
        p2p.open_node(node_id="shop-2") as b,
        controlled(node, stats_every_ms=200) as a,
    ):
        await visit(a.url, steps)


async def test_what_it_appends_is_durable_and_its_way_to_the_peers_is_shown() -> None:
    def steps(seen: Visit) -> None:
        page = seen.page
        seen.open(TOKEN)
        page.fill("#append-payload", "sold 3")
        page.fill("#append-kind", "sale")
        page.press("#append-payload", "Enter")
        seen.until("#append-result.good", "record 1")
        seen.until("#wal-table tbody tr", "this node")
        page.locator("#wal-table .mark.equal").filter(has_text="shop-2").wait_for()
        seen.until("#card-records", "1")
        page.locator("#wal-digest").filter(has_text=node.wal.digest().hex()[:8]).wait_for()

    async with (
        p2p.open_node(node_id="a") as node,
        p2p.open_node(node_id="shop-2", peers=[node.endpoints[0]]) as b,
        controlled(node, stats_every_ms=200) as a,
    ):
        await visit(a.url, steps)
        async with b.wal.follow() as records:
            record = await records.__anext__()
        assert (record.payload, record.kind) == (b"sold 3", "sale")


async def test_a_peer_that_catches_up_while_our_log_stands_still_is_shown_in_step() -> None:
    is_late = True

    def late(route: Route) -> None:
        answer = route.fetch().json()
        if is_late:
            for head in answer["heads"]:
                head |= {"in_step": 0, "marks": {str(b.peer_id): {"seq": 0, "mark": "behind"}}}
        route.fulfill(json=answer)

    def steps(seen: Visit) -> None:
        nonlocal is_late
        seen.page.route("**/p2p/wal?*", late)
        seen.open(TOKEN)
        marks = seen.page.locator("#wal-table .mark")
        marks.and_(seen.page.locator(".behind")).wait_for()
        is_late = False
        marks.and_(seen.page.locator(".equal")).wait_for()

    async with (
        p2p.open_node(node_id="a") as node,
        p2p.open_node(node_id="shop-2", peers=[node.endpoints[0]]) as b,
        b.wal.follow() as records,
        controlled(node, stats_every_ms=200) as a,
    ):
        await node.wal.append(b"sold 3")
        await records.__anext__()
        await visit(a.url, steps)


async def test_the_marks_of_the_log_follow_who_is_here_while_nothing_is_written() -> None:
    """Without events: those of a peer that comes or goes are answered before the page knows who is here."""
    peer = told_peer(id="ab" * 32, node_id="shop-2")
    head = {"origin": "cd" * 32, "node_id": "a", "own": True, "seq": 1, "hash": "ef" * 32, "frozen": False, "marks": {}}
    script = """async ([peer, head]) => {
        const { Heads } = await import("./assets/log.js");
        const api = { get: async () => ({ digest: "ef", total: 1, heads: [{ ...head, in_step: 1 }] }) };
        window.heads = new Heads(() => api);
        await window.heads.refresh();
        window.heads.know([peer]);
    }"""

    def steps(seen: Visit) -> None:
        page = seen.page
        page.goto(seen.url)
        page.evaluate(script, [peer, head])
        marks = page.locator("#wal-table .mark")
        marks.and_(page.locator(".equal")).filter(has_text="shop-2").wait_for(state="attached")
        page.evaluate("peer => window.heads.know([peer])", peer | {"connected_ms": None, "state": "disconnected"})
        marks.wait_for(state="detached")
        page.evaluate("peer => window.heads.know([peer])", peer)
        marks.filter(has_text="shop-2").wait_for(state="attached")

    async with p2p.open_node(node_id="a") as node, controlled(node) as a:
        await visit(a.url, steps)


async def test_it_survives_a_restart_of_the_server() -> None:
    async with (
        p2p.open_node(node_id="a") as node,
        p2p.open_node(node_id="b", peers=[node.endpoints[0]]),
        trio.open_nursery() as nursery,
    ):
        runtime = p2p.P2PRuntime(node)
        scope = trio.CancelScope()

        async def serve(port: int, task_status: trio.TaskStatus[list[str]]) -> None:
            options = http_control.P2PHttpOptions(bind=http_control.Bind(port=port), token=TOKEN, stats_every_ms=200)
            with scope:
                await http_control.serve(runtime, options, task_status=task_status)

        async def start(port: int) -> list[str]:
            nonlocal scope
            scope = trio.CancelScope()
            return await nursery.start(lambda task_status: serve(port, task_status))

        def steps(seen: Visit) -> None:
            page = seen.page
            seen.open(TOKEN)
            ask(at_once, scope.cancel)
            page.locator('#health[data-state="lost"]').wait_for()
            ask(start, port)
            seen.until_live()
            ask(node.wal.append, b"after the restart")
            seen.until("#card-records", "1")
            seen.until("#peers-table tbody tr", "b")

        url = (await start(0))[0]
        port = int(url.rpartition(":")[2].strip("/"))
        await visit(url.rstrip("/"), steps)
        nursery.cancel_scope.cancel()


async def test_a_node_that_says_nothing_is_not_shown_as_live() -> None:
    thawed = threading.Event()

    def steps(seen: Visit) -> None:
        page = seen.page
        seen.open(TOKEN)
        loop.run_sync_soon(thawed.wait, 60)
        try:
            page.locator('#health[data-state="stale"]').wait_for()
            page.locator("#age").filter(has_text="As of").wait_for()
            assert "old" in page.evaluate("document.body.className")
        finally:
            thawed.set()
        seen.until_live()
        page.locator("#age").wait_for(state="hidden")

    loop = trio.lowlevel.current_trio_token()
    async with p2p.open_node(node_id="a") as node, controlled(node, stats_every_ms=200) as a:
        await visit(a.url, steps)


async def test_a_store_that_takes_no_writes_is_shown_as_that_until_it_does() -> None:
    is_full = True

    def tick(route: Route) -> None:
        told([], **({"status": "read_only"} if is_full else {}))(route)

    def steps(seen: Visit) -> None:
        nonlocal is_full
        page = seen.page
        page.route("**/p2p/events", tick)
        page.goto(seen.url)
        seen.unlock(TOKEN)
        seen.until("#health[data-state=late]", "Read-only")
        seen.until("#read-only:visible", "takes no writes")
        is_full = False
        seen.until_live()
        assert not page.is_visible("#read-only")

    async with p2p.open_node(node_id="a") as node, controlled(node) as a:
        await visit(a.url, steps)


async def test_many_peers_are_summed_up_and_all_named() -> None:
    marks = {f"{number:064x}": {"seq": 7, "mark": "behind"} for number in range(3)}
    head = {"origin": "ab" * 32, "node_id": "a", "own": True, "seq": 9, "hash": "cd" * 32, "frozen": False}
    wal = {"ok": True, "digest": "ef" * 32, "total": 1, "heads": [head | {"in_step": 37, "marks": marks}]}
    names = [f"n-{number}" if number % 2 else "W" * 64 for number in range(40)]
    peers = [told_peer(id=f"{number:064x}", node_id=name) for number, name in enumerate(names)]
    cut = """() => {
        const picture = document.getElementById("picture").getBoundingClientRect();
        const boxes = [...document.querySelectorAll("#picture .node text")].map((text) => text.getBoundingClientRect());
        const isIn = (box) => box.left >= picture.left && box.right <= picture.right
            && box.top >= picture.top && box.bottom <= picture.bottom;
        return boxes.filter((box) => !isIn(box)).length;
    }"""

    def steps(seen: Visit) -> None:
        page = seen.page
        page.goto(seen.url)
        page.route(re.compile(r"/p2p/wal"), lambda route: route.fulfill(json=wal))
        page.route(re.compile(r"/p2p/events"), told(peers))
        seen.unlock(TOKEN)
        seen.until("#wal-table .mark.equal", "37 in step")
        assert page.locator("#wal-table .mark").count() == 4
        page.locator("#picture.dense").wait_for()
        assert page.locator('#picture .node[role="button"] text').count() == 40
        assert page.locator("#picture .node text").filter(has_text="n-17").is_visible()
        assert page.evaluate(cut) == 0

    async with p2p.open_node(node_id="a") as node, controlled(node, stats_every_ms=200) as a:
        await visit(a.url, steps)


async def test_T57_what_a_hostile_peer_is_called_is_shown_as_text() -> None:
    """Node ids cannot hold markup, so the answers are changed on their way to the page."""

    def poisoned(route: Route) -> None:
        answer = route.fetch()
        text = answer.text().replace('"node_id":"shop-2"', f'"node_id":{json.dumps(HOSTILE)}')
        route.fulfill(response=answer, body=text)

    def lines(route: Route) -> None:
        body = f"id: 1\nevent: log\ndata: {json.dumps({'time_ms': 1, 'line': HOSTILE + chr(0x202E) + 'evil'})}\n\n"
        route.fulfill(status=200, content_type="text/event-stream", body=body)

    def steps(seen: Visit) -> None:
        page = seen.page
        page.goto(seen.url)
        page.route(re.compile(r"/p2p/events"), told([told_peer(id="ab" * 32, node_id=HOSTILE, endpoint=HOSTILE)]))
        page.route(re.compile(r"/p2p/logs/live"), lines)
        page.route(re.compile(r"/p2p/wal"), poisoned)
        seen.unlock(TOKEN)
        seen.until("#peers-table tbody td", HOSTILE[:31])
        page.locator("#picture .node title").filter(has_text=HOSTILE).wait_for(state="attached")
        seen.until("#logs-lines li", HOSTILE)
        seen.until("#logs-lines li", "\\u202eevil")
        page.click("#peers-table tbody tr")
        seen.until("#peer-title", HOSTILE)
        assert page.locator("main img, main script, dialog img, dialog script").count() == 0
        assert page.title() != "1"

    async with (
        p2p.open_node(node_id="a") as node,
        p2p.open_node(node_id="shop-2", peers=[node.endpoints[0]]),
        controlled(node) as a,
    ):
        await visit(a.url, steps)


async def test_T57_the_policy_stops_what_is_not_from_this_place() -> None:
    def steps(seen: Visit) -> None:
        page = seen.page
        seen.open(TOKEN)
        script = "Object.assign(document.createElement('script'), {textContent: 'window.ran = 1'})"
        page.evaluate(f"document.body.append({script})")
        page.evaluate("document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=\"window.ran = 1\">')")
        page.locator("#health").wait_for()
        assert page.evaluate("window.ran") is None
        assert seen.complaints, "the browser tells of what the policy stopped"
        assert all("Content Security Policy" in complaint for complaint in seen.complaints)
        seen.complaints.clear()

    async with p2p.open_node(node_id="a") as node, controlled(node) as a:
        await visit(a.url, steps)


async def test_everything_is_within_reach_of_the_keyboard() -> None:
    def steps(seen: Visit) -> None:
        page = seen.page
        seen.open(TOKEN)
        seen.until("#peers-table tbody tr", "shop-2")
        page.focus("#peers-table tbody tr")
        page.keyboard.press("Enter")
        seen.until("#peer-title", "shop-2")
        seen.until("#peer-facts dd", str(b.peer_id))
        seen.until("#peer-heads td", "a")
        page.set_viewport_size({"width": 390, "height": 500})
        assert page.evaluate(COVERED) == []
        page.set_viewport_size({"width": 1280, "height": 900})
        page.keyboard.press("Escape")
        page.locator("#peer-dialog[open]").wait_for(state="hidden")
        page.focus('#picture .node[role="button"]')
        page.keyboard.press("Enter")
        seen.until("#peer-title", "shop-2")
        page.focus("#peer-disconnect")
        page.keyboard.press("Enter")
        page.locator("#peer-result").filter(has_text=re.compile("Disconnected|has left")).wait_for()
        page.keyboard.press("Escape")
        page.locator("#peers-table .state.disconnected").wait_for()
        reached = set()
        page.focus(".skip")
        for _ in range(60):
            page.keyboard.press("Tab")
            reached.add(page.evaluate("document.activeElement.id || document.activeElement.closest('th')?.dataset.key"))
        wanted = {"theme", "lock", "peers-filter", "peers-state", "connect-endpoint", "append-payload", "logs-filter"}
        assert wanted | {"node_id", "rtt_ms"} <= reached

    async with (
        p2p.open_node(node_id="a") as node,
        p2p.open_node(node_id="shop-2") as b,
        controlled(node, stats_every_ms=200) as a,
    ):
        await node.wal.append(b"sold 3")
        await b.connect(node.endpoints[0])
        await visit(a.url, steps)


async def test_the_table_is_filtered_and_sorted() -> None:
    def steps(seen: Visit) -> None:
        page = seen.page
        names = page.locator("#peers-table tbody .name")
        seen.open(TOKEN)
        seen.until("#peers-count", "3")
        assert names.all_inner_texts() == ["lab-1", "shop-2", "van-3"]
        page.click('th[data-key="node_id"] button')
        assert names.all_inner_texts() == ["van-3", "shop-2", "lab-1"]
        assert page.get_attribute('th[data-key="node_id"]', "aria-sort") == "descending"
        page.fill("#peers-filter", "SHOP")
        seen.until("#peers-count", "1 of 3")
        assert names.all_inner_texts() == ["shop-2"]
        page.select_option("#peers-state", "stale")
        seen.until("#peers-empty", "No peer matches")

    async with (
        p2p.open_node(node_id="a") as node,
        p2p.open_node(node_id="shop-2", peers=[node.endpoints[0]]),
        p2p.open_node(node_id="van-3", peers=[node.endpoints[0]]),
        p2p.open_node(node_id="lab-1", peers=[node.endpoints[0]]),
        controlled(node) as a,
    ):
        await visit(a.url, steps)


@pytest.mark.parametrize(("width", "theme"), [(390, "dark"), (390, "light"), (1280, "dark"), (1280, "light")])
async def test_it_fits_its_screen_in_both_themes(width: int, theme: str) -> None:
    def steps(seen: Visit) -> None:
        page = seen.page
        seen.open(TOKEN)
        seen.until("#peers-table tbody tr", LONG_NAME[:31])
        assert page.evaluate("document.scrollingElement.scrollWidth") <= width
        assert page.evaluate("document.getElementById('append-payload').clientWidth") >= 180
        back = "getComputedStyle(document.body).backgroundColor"
        dark = page.evaluate(back)
        page.click("#theme")
        page.click("#theme")
        assert page.inner_text("#theme") == "Light"
        light = page.evaluate(back)
        assert (dark == light) == (theme == "light")

    async with (
        p2p.open_node(node_id="a") as node,
        p2p.open_node(node_id=LONG_NAME, peers=[node.endpoints[0]]),
        controlled(node) as a,
    ):
        await visit(a.url, steps, viewport={"width": width, "height": 844}, color_scheme=theme)


async def test_a_browser_that_is_killed_leaves_nothing_behind() -> None:
    async def readers() -> int:
        metrics = (await a.client.get("/metrics")).text
        return sum(int(float(value)) for value in re.findall(r"^p2p_http_readers{.*} (\S+)$", metrics, re.MULTILINE))

    async def until(count: int) -> None:
        with trio.fail_after(30):
            while await readers() != count:
                await trio.lowlevel.checkpoint()

    def steps(seen: Visit, process: subprocess.Popen[bytes]) -> None:
        seen.open(TOKEN)
        ask(until, 2)
        process.kill()
        process.wait()
        ask(until, 0)
        done.append(True)

    done: list[bool] = []
    async with p2p.open_node(node_id="a") as node, controlled(node) as a:
        await trio.to_thread.run_sync(killable, a.url, steps)
        assert done == [True]
        assert (await a.get("/status"))["running"] is True


async def test_what_it_shows_is_of_the_node_that_is_chosen() -> None:
    def lines(seen: Visit, text: str) -> list[str]:
        seen.until("#logs-lines li", text)
        return [str(line) for line in seen.page.locator("#logs-lines li span").all_text_contents()]

    def steps(seen: Visit) -> None:
        page = seen.page
        seen.open(TOKEN)
        before = lines(seen, "of the shop")
        seen.until("#wal-table tbody tr", "shop (this node)")
        # The token once more: the same lines come again, and stand there once.
        page.click("#lock")
        seen.unlock(TOKEN)
        seen.until_live()
        assert sorted(lines(seen, "of the shop")) == sorted(before)
        page.select_option("#prefix", "/van")
        seen.unlock(OTHER_TOKEN)
        seen.until("#node-name", "van")
        assert not [line for line in lines(seen, "of the van") if "shop" in line]
        seen.until("#wal-empty", "No records yet.")
        assert page.locator("#wal-table tbody tr").count() == 0
        # Each has its token, kept for this page alone: what a proxy has at another path is another server.
        page.select_option("#prefix", "/shop")
        seen.until("#node-name", "shop")
        kept = page.evaluate("Object.keys(sessionStorage)")
        assert sorted(kept) == [f"p2p-token /{name}" for name in ("", "shop", "van")]

    app = QuartTrio("shop")
    async with (
        p2p.open_node(node_id="shop") as shop,
        p2p.open_node(node_id="van") as van,
        trio.open_nursery() as nursery,
    ):
        await shop.wal.append(b"sold")
        for node, token in ((shop, TOKEN), (van, OTHER_TOKEN)):
            options = http_control.P2PHttpOptions(prefix=node.node_id, token=token, enable_stats_line=False)
            http_control.register_routes(app, p2p.P2PRuntime(node), options)
        http_control.register_site(app)
        urls = await nursery.start(http_control.serve_app, app, http_control.ServerOptions())
        for control in app.extensions["p2p_http"]:
            control.lines.kept.clear()
            control.say(f"of the {control.node.node_id}")
        await visit(urls[0], steps)
        nursery.cancel_scope.cancel()


async def test_a_page_that_nobody_looks_at_keeps_so_many_lines() -> None:
    script = """async () => {
        const { Lines } = await import("./assets/log.js");
        window.requestAnimationFrame = () => 1; // a page in the background draws nothing
        const lines = new Lines();
        for (let k = 0; k < 3000; k += 1) lines.add("log", { time_ms: 1, line: `line ${k}` });
        const kept = lines.waiting.length;
        lines.flush();
        return [kept, lines.list.childElementCount, lines.list.lastElementChild.lastChild.textContent];
    }"""

    def steps(seen: Visit) -> None:
        seen.page.goto(seen.url)
        assert seen.page.evaluate(script) == [800, 800, "line 2999"]

    async with p2p.open_node(node_id="a") as node, controlled(node) as a:
        await visit(a.url, steps)


async def test_the_picture_tells_who_is_late_and_not_who_is_only_busy() -> None:
    """Driven tick by tick: the parts of the page are modules."""
    script = """async () => {
        const { Picture } = await import("./assets/picture.js");
        const { svg } = await import("./assets/dom.js");
        const picture = new Picture(svg("svg"), () => {});
        let now = 0;
        Date.now = () => now;
        const link = { to: "b", from: "a", state: "connected", direct: true, rtt_ms: 1, lag_records: 0 };
        const mood = (records, behind, ahead) => {
            now += 1000;
            return picture.moods([{ ...link, behind_records: behind, ahead_records: ahead }], records).get("b");
        };
        const busy = [...Array(10).keys()].map((k) => mood(100 * k, 60, 0));
        const stuck = [...Array(10).keys()].map(() => mood(1000, 60, 0));
        const equal = mood(1000, 0, 0);
        const ahead = [...Array(10).keys()].map(() => mood(1000, 0, 5));
        return [new Set(busy).size, busy[9], stuck[9], equal, ahead[0], ahead[9]];
    }"""

    def steps(seen: Visit) -> None:
        seen.page.goto(seen.url)
        assert seen.page.evaluate(script) == [1, "ok", "late", "ok", "ok", "late"]

    async with p2p.open_node(node_id="a") as node, controlled(node) as a:
        await visit(a.url, steps)


async def test_an_application_lets_its_own_users_in() -> None:
    async def rule(ctx: http_control.AuthContext) -> bool:
        return ctx.req.cookies.get("session") == "of-a-user"

    def steps(seen: Visit) -> None:
        seen.page.goto(seen.url)
        seen.page.locator("#token-dialog[open]").wait_for()
        seen.page.context.add_cookies([{"name": "session", "value": "of-a-user", "url": seen.url}])
        seen.page.reload()
        seen.until_live()
        seen.page.fill("#append-payload", "by a user")
        seen.page.press("#append-payload", "Enter")
        seen.until("#append-result", "record 1")

    async with p2p.open_node(node_id="a") as node, controlled(node, auth_ctx=rule) as a:
        await visit(a.url, steps)
