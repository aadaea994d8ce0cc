"""Imported by the fork server only (last of its preloaded modules): its memory is to be shared, so nobody writes to it.

A collection of cyclic garbage writes into the header of every object it looks at. In a child that means a private copy
of nearly everything the fork server has loaded: 30 MB per process after the first full collection. Frozen objects are
not looked at.
"""

from __future__ import annotations

import gc

from sample_factory.algo.utils import fork_server_setup

fork_server_setup.loading_is_done()
gc.collect()
gc.freeze()
