"""`python -m tests.browser.screenshots`: the pictures of docs/http.md, taken of real nodes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

import trio

import p2p
from tests.browser.chromium import Visit, visit
from tests.http.controlled import TOKEN, controlled

FOLDER: Final = Path(__file__).resolve().parents[2] / "docs" / "images"
NAMES: Final = ("van-7", "lab.north", "ship-aurora", "shop-2", "kiosk-12")
VIEWS: Final = (("dashboard-dark", 1280, "dark"), ("dashboard-light", 1280, "light"), ("dashboard-phone", 390, "dark"))


async def main() -> None:
    """A shop with five peers that write, seen three times."""
    key = bytes(range(32))
    async with p2p.open_node(node_id="shop-1", network_key=key) as shop, trio.open_nursery() as nursery:
        for name in NAMES:
            config = p2p.NodeConfig(node_id=name, network_key=key, listen_host="127.0.0.1", peers=(shop.endpoints[0],))
            nursery.start_soon(write, await nursery.start(p2p.Node(config).run))
        nursery.start_soon(write, shop)
        async with controlled(shop, stats_every_ms=250) as control:
            for name, width, theme in VIEWS:
                screen = {"width": width, "height": 844}
                await visit(control.url, picture(name, whole=width > 640), viewport=screen, color_scheme=theme)
        nursery.cancel_scope.cancel()


async def write(node: p2p.Node) -> None:
    """Records at an uneven pace, so that the charts have something to show."""
    number = 0
    while True:
        number += 1
        await node.wal.append_many([b"sold %d" % number] * (1 + number % 7 * 3), kind="sale")
        await trio.sleep(0.1 + 0.4 * (len(node.node_id) * number % 5))


def picture(name: str, *, whole: bool) -> Callable[[Visit], None]:
    """Steps that take one picture, once the charts have grown."""

    def steps(seen: Visit) -> None:
        seen.open(TOKEN)
        seen.until("#peers-count", str(len(NAMES)))
        seen.page.wait_for_timeout(20_000)
        seen.page.screenshot(path=FOLDER / f"{name}.png", full_page=whole)

    return steps


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    trio.run(main)
