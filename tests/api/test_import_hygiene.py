"""Importing the package has no side effects: no optional library, process, GPU or logging set-up."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
OPTIONAL = (
    "wandb",
    "cv2",
    "pandas",
    "onnx",
    "pettingzoo",
    "huggingface_hub",
    "rich",
    "matplotlib",
    "tensorboard",
    "imageio",
)

# Runs in a fresh interpreter: modules of this test session must not be seen.
PROGRAM = """
import importlib, json, logging, os, signal, sys, threading
import gymnasium, psutil  # plug-ins of old Gymnasium versions import what they like

loaded_by_others = set(sys.modules)

ids = [s for s in (signal.SIGINT, signal.SIGTERM)]
handlers = [str(signal.getsignal(s)) for s in ids]
environment = dict(os.environ)
for module in sys.argv[1:]:
    importlib.import_module(module)
torch = sys.modules.get("torch")
print(json.dumps({
    "modules": [m for m in sys.modules if "." not in m and m not in loaded_by_others],
    "children": len(psutil.Process().children()),
    "threads": threading.active_count(),
    "cuda": bool(torch) and torch.cuda.is_initialized(),
    "root_handlers": [str(h) for h in logging.getLogger().handlers],
    "root_level": logging.getLogger().level,
    "signal_handlers_changed": handlers != [str(signal.getsignal(s)) for s in ids],
    "environment_changed": sorted(k for k in {*os.environ, *environment} if os.environ.get(k) != environment.get(k)),
}))
"""


def after_importing(*modules: str) -> dict:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *modules], cwd=ROOT, capture_output=True, text=True, timeout=50, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def all_modules() -> list[str]:
    """All but the terminal panel (made of rich, imported when shown) and what only the fork server imports."""
    paths = sorted((ROOT / "sample_factory").rglob("*.py"))
    modules = [".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for path in paths]
    fork_server = {f"sample_factory.algo.utils.fork_server_{part}" for part in ("setup", "ready")}
    return sorted({*modules} - fork_server - {"sample_factory.monitoring.panel"})


@pytest.mark.parametrize(
    "modules",
    [["sample_factory.train"], ["sample_factory.enjoy"], ["sample_factory.cfg.arguments"], all_modules()],
    ids=["train", "enjoy", "cfg", "everything"],
)
def test_importing_has_no_side_effects(modules: list[str]) -> None:
    state = after_importing(*modules)
    assert sorted(set(OPTIONAL) & set(state["modules"])) == []
    assert state["children"] == 0
    assert state["threads"] == 1
    assert not state["cuda"]
    assert (state["root_handlers"], state["root_level"]) == ([], 30)
    assert not state["signal_handlers_changed"]
    # OpenMP and pygame announce themselves when NumPy and Gymnasium are imported.
    assert [key for key in state["environment_changed"] if not key.startswith(("KMP_", "PYGAME_"))] == []


def test_configuration_and_registration_need_no_torch() -> None:
    """Help, flag errors and worker processes that only step environments start quickly."""
    state = after_importing("sample_factory.cfg.arguments", "sample_factory.envs.env_utils")
    assert "torch" not in state["modules"]


OPTIMIZE = """
import sys
import torch
from sample_factory.algo.utils.optimizers import Lamb, PortableAdam

for optimizer_cls in (PortableAdam, Lamb):
    params = [torch.nn.Parameter(torch.ones(2))]
    optimizer = optimizer_cls(params)
    params[0].sum().backward()
    optimizer.step()
    optimizer.load_state_dict(optimizer.state_dict())
    optimizer.zero_grad()
    assert "torch._dynamo" not in sys.modules, optimizer_cls
"""


def test_optimisers_do_not_load_the_compiler_of_torch():
    """It costs a learner process a second and 40 MB."""
    done = subprocess.run([sys.executable, "-c", OPTIMIZE], cwd=ROOT, capture_output=True, text=True, timeout=50)
    assert done.returncode == 0, done.stderr
