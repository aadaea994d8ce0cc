"""Imported by the fork server only (first of its preloaded modules): makes it outlive signals sent to the whole group.

The fork server is the parent of all worker processes and they die with it. When SIGTERM or SIGHUP reaches the process
group, the main process saves and stops the workers; the fork server must not end them before. It exits by itself when
the main process is gone.
"""

from __future__ import annotations

import signal

signal.signal(signal.SIGTERM, signal.SIG_IGN)
signal.signal(signal.SIGHUP, signal.SIG_IGN)
