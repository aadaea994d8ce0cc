"""TensorBoard writers that outlive a full disk or a lost folder.

TensorBoard writes on a thread of its own; when that fails, the next call of the writer raises, whoever makes it. Here
the failure is reported once, numbers of that time are missing in the curves, and a new event file is opened as soon as
the disk takes something again (a file whose end may be damaged is not continued: readers stop at the damage).

TensorBoard takes a second to load: that happens when a writer is opened.
"""

from __future__ import annotations

import contextlib
import os
import time
from typing import TYPE_CHECKING, Any

from sample_factory.utils.durable_files import FailureLog, write_atomically

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

RETRY_SEC = 10.0
_PROBE_NAME = "probe"
_PROBE_BYTES = 64 * 1024


def open_summary_writer(log_dir: str, flush_secs: int) -> SummaryWriter:
    """A ``SummaryWriter`` of which no method raises OSError."""
    from torch.utils import tensorboard

    class ResilientSummaryWriter(tensorboard.SummaryWriter):
        def _get_file_writer(self) -> Any:
            if self.all_writers is None or self.file_writer is None:
                writer: Any = ResilientFileWriter(self.log_dir, self.max_queue, self.flush_secs, self.filename_suffix)
                self.file_writer = writer
                self.all_writers = {self.log_dir: writer}  # type: ignore[assignment]
            return self.file_writer

        @property
        def logdir(self) -> str:
            """The folder, under the name that it has in tensorboardX."""
            return self.log_dir

    return ResilientSummaryWriter(log_dir, flush_secs=flush_secs)


class ResilientFileWriter:
    """Stands in for ``torch.utils.tensorboard.writer.FileWriter``; ``args`` are those of its constructor."""

    def __init__(self, log_dir: str, *args: Any) -> None:
        self._log_dir, self._args = str(log_dir), args
        self._inner: Any = None
        self._failures = FailureLog(f"TensorBoard summaries in {log_dir}")
        self._retry_at = 0.0
        self._call("get_logdir")

    def get_logdir(self) -> str:
        return self._log_dir

    def add_event(self, *args: Any, **kwargs: Any) -> None:
        self._call("add_event", *args, **kwargs)

    def add_summary(self, *args: Any, **kwargs: Any) -> None:
        self._call("add_summary", *args, **kwargs)

    def add_graph(self, *args: Any, **kwargs: Any) -> None:
        self._call("add_graph", *args, **kwargs)

    def add_onnx_graph(self, *args: Any, **kwargs: Any) -> None:
        self._call("add_onnx_graph", *args, **kwargs)

    def flush(self) -> None:
        self._call("flush")

    def reopen(self) -> None:
        self._call("reopen")

    def close(self) -> None:
        if self._inner is not None:
            self._call("close")

    def _call(self, method: str, *args: Any, **kwargs: Any) -> None:
        if self._inner is None and time.monotonic() < self._retry_at:
            return
        try:
            if self._inner is None:
                self._inner = self._open()
            getattr(self._inner, method)(*args, **kwargs)
        except OSError as exc:
            self._failures.failed(exc)
            self._retry_at = time.monotonic() + RETRY_SEC
            inner, self._inner = self._inner, None
            if inner is not None:
                with contextlib.suppress(OSError):
                    inner.close()
        else:
            self._failures.succeeded()

    def _open(self) -> Any:
        # Otherwise every attempt would leave an empty event file and a dead thread with its traceback.
        os.makedirs(self._log_dir, exist_ok=True)
        probe = os.path.join(self._log_dir, f".{_PROBE_NAME}.{os.getpid()}")
        write_atomically(probe, bytes(_PROBE_BYTES))
        os.remove(probe)

        from torch.utils import tensorboard

        # Looked up now: W&B replaces what is behind it.
        return tensorboard.writer.FileWriter(self._log_dir, *self._args)
