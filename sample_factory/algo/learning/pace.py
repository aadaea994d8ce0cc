"""When collection of large blocks should go on, so that the next one is there just before the learner runs dry."""

from __future__ import annotations

_WEIGHT_OF_NEW = 0.3


class Estimate:
    """Moving average of durations in seconds, ``None`` before the first."""

    def __init__(self) -> None:
        self.seconds: float | None = None

    def add(self, seconds: float) -> None:
        old = self.seconds
        self.seconds = seconds if old is None else old + _WEIGHT_OF_NEW * (seconds - old)


class Pace:
    """How long collecting a block and training on a batch take; all times are seconds of one clock.

    Collecting too late leaves the learner without work, too early makes the experience older than it need be.
    """

    def __init__(self, now: float) -> None:
        self._collection, self._training = Estimate(), Estimate()
        self._collected_before = 0.0  # of the block under way, before the last pause
        self._collecting_since: float | None = now
        self._training_since: float | None = None

    def on_pause(self, now: float) -> None:
        """Collection has been stopped."""
        if self._collecting_since is not None:
            self._collected_before += now - self._collecting_since
            self._collecting_since = None

    def on_resume(self, now: float) -> None:
        """Collection goes on."""
        if self._collecting_since is None:
            self._collecting_since = now

    def on_block(self, now: float) -> None:
        """A block has arrived."""
        is_collecting = self._collecting_since is not None
        self.on_pause(now)
        self._collection.add(self._collected_before)
        self._collected_before = 0.0
        if is_collecting:
            self._collecting_since = now

    def on_batch_formed(self, now: float) -> None:
        """The learner has something to do."""
        if self._training_since is None:
            self._training_since = now

    def on_batch_trained(self, now: float, num_waiting: int) -> None:
        """A batch was trained on, ``num_waiting`` others are there already."""
        if self._training_since is not None:
            self._training.add(now - self._training_since)
        self._training_since = now if num_waiting > 0 else None

    def is_early(self, num_batches: float) -> bool:
        """Whether the learner, who has so many batches left, will be busy for longer than a block takes.

        By more than one batch: it may be about to finish the first, and is asked about when one is trained on.
        """
        if self._collection.seconds is None or self._training.seconds is None:
            return True
        return (num_batches - 1.0) * self._training.seconds > self._collection.seconds
