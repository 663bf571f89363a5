"""What a TcpStream does beyond the contract that every transport keeps."""

from __future__ import annotations

import errno
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import assert_checkpoints, assert_no_checkpoints, wait_all_tasks_blocked

from p2p.ids import PeerEndpoint
from p2p.transport.base import RECEIVE_BYTES
from p2p.transport.tcp_stream import ALONE_BYTES_MAX, CHUNKS_PER_CHECKPOINT, TcpStream


def tcp_sockets() -> tuple[socket.socket, socket.socket]:
    listener = socket.create_server(("127.0.0.1", 0))
    client = socket.create_connection(listener.getsockname())
    server, _ = listener.accept()
    listener.close()
    return client, server


@asynccontextmanager
async def stream_and_socket() -> AsyncIterator[tuple[TcpStream, socket.socket]]:
    """A stream, and the blocking socket of the other side."""
    client, server = tcp_sockets()
    stream = TcpStream(client, PeerEndpoint("192.0.2.1", 1))
    try:
        yield stream, server
    finally:
        stream.abort()
        server.close()


async def test_nagle_is_off_and_the_unsent_part_is_bounded() -> None:
    client, server = tcp_sockets()
    stream = TcpStream(client)
    assert client.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    assert client.getsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT) == 128 * 1024
    assert not client.getblocking()
    await stream.aclose()
    server.close()


async def test_chunks_at_hand_come_without_a_checkpoint_and_every_fourth_with_one() -> None:
    async with stream_and_socket() as (stream, other):
        other.sendall(bytes(100))
        for _ in range(3):
            for _ in range(CHUNKS_PER_CHECKPOINT - 1):
                with assert_no_checkpoints():
                    assert await stream.receive_chunk(1) == b"\0"
            with assert_checkpoints():
                assert await stream.receive_chunk(1) == b"\0"


async def test_a_chunk_that_was_waited_for_starts_the_count_anew() -> None:
    async with stream_and_socket() as (stream, other):
        other.sendall(b"abcd")
        for _ in range(4):
            await stream.receive_chunk(1)
        other.sendall(b"e")
        await stream.receive_chunk(1)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stream.receive_chunk, 1)
            await wait_all_tasks_blocked()
            other.sendall(b"fghij")
        for _ in range(CHUNKS_PER_CHECKPOINT - 1):
            with assert_no_checkpoints():
                await stream.receive_chunk(1)
        with assert_checkpoints():
            await stream.receive_chunk(1)


async def test_after_a_small_message_that_came_alone_the_next_read_waits_before_it_looks() -> None:
    async with stream_and_socket() as (stream, other):
        for size, expected in ((100, assert_checkpoints), (ALONE_BYTES_MAX, assert_no_checkpoints)):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(stream.receive_chunk, 2 * ALONE_BYTES_MAX)
                await wait_all_tasks_blocked()
                other.sendall(bytes(size))
            other.sendall(bytes(ALONE_BYTES_MAX))
            with expected():
                assert len(await stream.receive_chunk(2 * ALONE_BYTES_MAX)) == ALONE_BYTES_MAX


async def test_whoever_speaks_first_waits_before_it_looks_for_an_answer() -> None:
    client, server = tcp_sockets()
    stream = TcpStream(client, speaks_first=True)
    server.sendall(b"early")
    with assert_checkpoints():
        assert await stream.receive_chunk(100) == b"early"
    await stream.aclose()
    server.close()


async def test_a_read_takes_at_most_its_share() -> None:
    async with stream_and_socket() as (stream, other):
        other.settimeout(10)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.to_thread.run_sync, other.sendall, bytes(RECEIVE_BYTES * 3))
            received = 0
            while received < RECEIVE_BYTES * 3:
                data = await stream.receive_some()
                assert 0 < len(data) <= RECEIVE_BYTES
                received += len(data)


async def test_t10_a_reset_is_no_clean_end_for_the_reader_although_the_writer_heard_first() -> None:
    async with stream_and_socket() as (stream, other):
        other.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        other.close()
        await trio.lowlevel.wait_readable(stream._sock)
        assert stream.send_nowait(b"x") == 0
        with pytest.raises(trio.BrokenResourceError):
            await stream.receive_some()
        with pytest.raises(trio.BrokenResourceError):
            await stream.send_all(b"x")


async def test_t10_a_clean_end_stays_clean_although_writing_after_it_fails() -> None:
    async with stream_and_socket() as (stream, other):
        other.sendall(b"bye")
        other.close()
        with pytest.raises(trio.BrokenResourceError):
            while True:
                await stream.send_all(b"x")
        # Linux keeps what had arrived; the end after it is the one that the other side made.
        assert await stream.receive_some() in (b"bye", b"")
        assert await stream.receive_some() == b""


async def test_an_abort_sends_a_reset() -> None:
    async with stream_and_socket() as (stream, other):
        await stream.send_all(b"unread")
        stream.abort()
        with pytest.raises(ConnectionResetError):
            while other.recv(100):
                pass


async def test_a_close_sends_an_end_after_the_data() -> None:
    async with stream_and_socket() as (stream, other):
        await stream.send_all(b"last")
        await stream.aclose()
        assert other.recv(100) == b"last"
        assert other.recv(100) == b""


async def test_sending_from_two_tasks_is_a_bug_that_is_named() -> None:
    async with stream_and_socket() as (stream, _):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stream.send_all, bytes(32 * 1024 * 1024))
            await wait_all_tasks_blocked(0.01)
            for method in (stream.send_eof, stream.wait_send_all_might_not_block):
                with pytest.raises(trio.BusyResourceError):
                    await method()
            with pytest.raises(AssertionError):
                stream.send_nowait(b"x")
            nursery.cancel_scope.cancel()
        assert stream.send_nowait(b"x") in (0, 1)


async def test_an_error_that_is_neither_reset_nor_closed_breaks_it_too() -> None:
    class Failing(socket.socket):
        def recv(self, *_: object) -> bytes:
            raise OSError(errno.ETIMEDOUT, "Connection timed out")

    client, server = tcp_sockets()
    stream = TcpStream(Failing(fileno=client.detach()))
    with pytest.raises(trio.BrokenResourceError, match="timed out"):
        await stream.receive_some()
    stream.abort()
    server.close()


async def test_it_shows_where_it_leads_and_whether_it_is_closed() -> None:
    async with stream_and_socket() as (stream, _):
        assert "tcp://192.0.2.1:1" in repr(stream)
        await stream.aclose()
        assert "closed" in repr(stream)


async def test_a_stream_that_was_closed_says_so_to_who_reads_on() -> None:
    async with stream_and_socket() as (stream, other):
        await trio.sleep(0)
        other.sendall(b"x")
        assert await stream.receive_chunk(100) == b"x"
        await stream.aclose()
        for _ in range(2):
            with pytest.raises(trio.ClosedResourceError):
                await stream.receive_chunk(100)
