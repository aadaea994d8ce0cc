"""The queue of event loops: nothing is lost, nothing blocks, and no killed writer takes others down with it."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from queue import Empty
from typing import Any

import pytest

from sample_factory.algo.utils import message_queue
from sample_factory.algo.utils.message_queue import _MAX_PART_BYTES, MessageQueue, flush_all
from sample_factory.algo.utils.multiprocessing_utils import get_mp_ctx


@pytest.fixture
def queue() -> Iterator[MessageQueue]:
    queue = MessageQueue()
    yield queue
    queue.close()


def all_messages(queue: MessageQueue) -> list[Any]:
    messages: list[Any] = []
    while True:
        flush_all()
        try:
            messages += queue.get_many(timeout=0)
        except Empty:
            return messages


def test_messages_arrive_in_order_and_together(queue: MessageQueue) -> None:
    queue.put_many([("a", 1), ("b", 2)])
    queue.put(("c", 3))
    assert not queue.empty() and queue.qsize() == 1
    assert queue.get_many(timeout=0) == [("a", 1), ("b", 2), ("c", 3)]
    assert queue.empty() and queue.qsize() == 0
    with pytest.raises(Empty):
        queue.get_many(timeout=0.01)
    with pytest.raises(Empty):
        queue.get_many_nowait()


@pytest.mark.parametrize("size", [_MAX_PART_BYTES - 100, _MAX_PART_BYTES, _MAX_PART_BYTES + 1, 10 * _MAX_PART_BYTES])
def test_messages_of_any_size(queue: MessageQueue, size: int) -> None:
    messages = [("first",), os.urandom(size), ("last",)]
    for message in messages:
        queue.put(message)
    assert all_messages(queue) == messages


def test_more_than_the_socket_holds_waits_and_is_not_lost(queue: MessageQueue) -> None:
    messages = [(i, os.urandom(50_000)) for i in range(400)]
    for message in messages:
        queue.put_many([message], block=False)
    assert queue._waiting, "20 MB should not fit"
    assert all_messages(queue) == messages
    assert not queue._waiting and queue not in message_queue._overfull


def test_parts_of_several_writers_are_not_mixed_up(queue: MessageQueue) -> None:
    """Two writers, taking turns with the parts of messages that are too long for one datagram."""
    long = [bytes([i]) * (3 * _MAX_PART_BYTES) for i in range(2)]
    parts: list[list[bytes]] = []
    for content in long:
        writer = MessageQueue()
        writer._send_waiting = lambda: None  # type: ignore[method-assign]
        writer.put(content)
        parts.append(list(writer._waiting))
    assert len(parts[0]) == len(parts[1]) > 3
    for pair in zip(*parts, strict=True):
        for part in pair:
            queue._writer.send(part)
    assert all_messages(queue) == long


@pytest.mark.parametrize("num_parts_sent", [1, 2])
def test_rest_of_a_killed_writers_message_is_dropped(queue: MessageQueue, num_parts_sent: int) -> None:
    writer = MessageQueue()
    writer._send_waiting = lambda: None  # type: ignore[method-assign]
    writer.put(b"x" * (3 * _MAX_PART_BYTES))
    for part in list(writer._waiting)[:num_parts_sent]:
        queue._writer.send(part)
    queue.put("from another writer")
    assert all_messages(queue) == ["from another writer"]
    # What comes from the middle of a message that began before anybody read is dropped as well.
    queue._writer.send(list(writer._waiting)[-1])
    queue.put("later")
    assert all_messages(queue) == ["later"]


def write_for_ever(queue: MessageQueue, payload: bytes) -> None:
    while True:
        queue.put(payload)
        while queue._waiting:
            flush_all()


@pytest.mark.multiproc
def test_writers_killed_at_any_moment_leave_a_usable_queue(queue: MessageQueue) -> None:
    """With a lock in shared memory one kill in ten would leave everybody else waiting for it."""
    payload = os.urandom(100_000)
    ctx = get_mp_ctx(serial=False)
    for i in range(10):
        process = ctx.Process(target=write_for_ever, args=(queue, payload))  # type: ignore[union-attr]
        process.start()
        seen = 0
        while seen <= 3 * i:  # another moment in every round
            seen += sum(message == payload for message in queue.get_many(timeout=30))
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        assert all(message == payload for message in all_messages(queue))
        queue.put(("still", "works"))
        assert all_messages(queue) == [("still", "works")]
