"""Number the GPUs of this machine in a separate process.

A process that has initialised CUDA can no longer change which GPUs it sees, and cannot fork; so the question is asked
in a child: ``python -m sample_factory.utils.get_available_gpus`` prints for instance ``0,1``.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from sample_factory.utils.logging import log

QUERY_TIMEOUT_SEC = 120
_PACKAGE_PARENT = str(Path(__file__).resolve().parents[2])


def get_gpus_without_triggering_pytorch_cuda_initialization(envvars: Mapping[str, str] | None = None) -> str:
    """Comma-separated GPU indices ("" without GPUs), as seen with the environment variables `envvars`."""
    env = dict(os.environ if envvars is None else envvars)
    # The child has to find this package also when the parent imported it through a modified sys.path.
    env["PYTHONPATH"] = os.pathsep.join(path for path in (_PACKAGE_PARENT, env.get("PYTHONPATH")) if path)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "sample_factory.utils.get_available_gpus"],
            capture_output=True,
            text=True,
            check=True,
            env=env,
            timeout=QUERY_TIMEOUT_SEC,
        )
    except subprocess.CalledProcessError as exc:
        log.warning("Could not query the GPUs, going on without them:\n%s", exc.stderr.strip())
        return ""
    except (OSError, subprocess.TimeoutExpired) as exc:
        log.warning("Could not query the GPUs, going on without them: %s", exc)
        return ""
    lines = done.stdout.strip().splitlines()
    return lines[-1] if lines else ""


def main() -> int:
    import torch  # only the child may load it here

    print(",".join(str(gpu) for gpu in range(torch.cuda.device_count())))
    return 0


if __name__ == "__main__":
    sys.exit(main())
