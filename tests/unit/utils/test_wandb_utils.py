from __future__ import annotations

import sys
import threading
from argparse import Namespace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest

from sample_factory.utils import wandb_utils
from sample_factory.utils.attr_dict import AttrDict
from sample_factory.utils.wandb_utils import finish_wandb, init_wandb


def make_cfg(tmp_path: Path, **changes) -> AttrDict:
    return AttrDict(
        with_wandb=True,
        experiment="my/exp",
        env="some_env",
        wandb_project="sample_factory",
        wandb_user=None,
        wandb_group=None,
        wandb_job_type="SF",
        wandb_tags=["a"],
        wandb_dir=str(tmp_path / "wandb"),
        **changes,
    )


class FakeRun:
    def __init__(self) -> None:
        self.entries: dict = {}
        self.metrics: list = []
        self.finished = False
        self.config = SimpleNamespace(update=self._update)

    def _update(self, entries, allow_val_change):
        assert allow_val_change
        self.entries.update(entries)

    def define_metric(self, name, step_metric=None):
        self.metrics.append((name, step_metric))

    def finish(self, exit_code):
        self.finished, self.exit_code = True, exit_code


class FakeWandb:
    """A server that fails for the first calls of `init`; records the calls."""

    class CommError(Exception): ...

    def __init__(self, failures=()) -> None:
        self.errors = SimpleNamespace(CommError=self.CommError)
        self.failures = list(failures)
        self.ids_in_use: set[str] = set()
        self.calls: list[dict] = []
        self.run: FakeRun | None = None

    def Settings(self, **kwargs):  # the name of the real class
        return kwargs

    def init(self, **kwargs):
        self.calls.append(kwargs)
        if kwargs["id"] in self.ids_in_use:
            raise RuntimeError(f"run ID {kwargs['id']} is in use")
        self.ids_in_use.add(kwargs["id"])
        if self.failures:
            raise self.failures.pop(0)
        self.run = FakeRun()
        return self.run

    def teardown(self):
        self.ids_in_use.clear()


@pytest.fixture
def install(monkeypatch):
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setattr(wandb_utils, "retry", lambda times, exceptions: _retry_at_once(times, exceptions))

    def _install(fake):
        monkeypatch.setitem(sys.modules, "wandb", fake)
        return fake

    return _install


def _retry_at_once(times, exceptions):
    from sample_factory.utils.retry import retry

    return retry(times, exceptions, sleep=lambda _: None)


def test_run_is_configured(tmp_path: Path, install):
    fake = install(FakeWandb())
    cfg = Namespace(**make_cfg(tmp_path))
    init_wandb(cfg)
    call = fake.calls[0]
    assert call["id"] == call["name"] == cfg.wandb_unique_id and cfg.wandb_unique_id.startswith("my_exp_2")
    assert (call["group"], call["resume"], call["sync_tensorboard"], call["tags"]) == ("some_env", "allow", True, ["a"])
    assert fake.run.entries["env"] == "some_env"
    assert ("train/env_steps", None) in fake.run.metrics
    assert ("reward/*", "train/env_steps") in fake.run.metrics
    finish_wandb(cfg)
    assert fake.run.finished and fake.run.exit_code == 0


def test_a_failed_run_is_marked_as_failed(tmp_path: Path, install):
    fake = install(FakeWandb())
    init_wandb(cfg := make_cfg(tmp_path))
    finish_wandb(cfg, 1)
    assert fake.run.exit_code == 1


@pytest.mark.parametrize("is_offline", [False, True])
def test_mode_is_what_the_client_says(tmp_path: Path, install, monkeypatch, caplog, is_offline):
    """Its own settings may ask for a run without a connection."""
    install(FakeWandb())
    monkeypatch.setattr(FakeRun, "offline", is_offline, raising=False)
    wandb_utils.log.addHandler(caplog.handler)
    try:
        init_wandb(make_cfg(tmp_path))
    finally:
        wandb_utils.log.removeHandler(caplog.handler)
    assert "online" not in caplog.text and ("records offline" in caplog.text) == is_offline


def test_identity_is_kept_on_resume(tmp_path: Path, install):
    fake = install(FakeWandb())
    init_wandb(make_cfg(tmp_path, wandb_unique_id="old_run"))
    assert fake.calls[0]["id"] == "old_run"


def test_connection_problems_are_retried(tmp_path: Path, install):
    fake = install(FakeWandb([FakeWandb.CommError("down"), ConnectionError("down"), TimeoutError("slow")]))
    init_wandb(make_cfg(tmp_path))
    assert [call["mode"] for call in fake.calls] == [None] * 4
    assert fake.run is not None


def test_slow_failures_leave_time_to_record_offline(tmp_path: Path, install, monkeypatch):
    fake = install(FakeWandb([FakeWandb.CommError("timed out")] * 2))
    monkeypatch.setattr(wandb_utils, "INIT_TIMEOUT_SEC", 0)
    init_wandb(make_cfg(tmp_path))
    assert [call["mode"] for call in fake.calls] == [None, "offline"]


def test_unreachable_server_means_offline(tmp_path: Path, install):
    fake = install(FakeWandb([ValueError("no API key")]))
    init_wandb(make_cfg(tmp_path))
    assert [call["mode"] for call in fake.calls] == [None, "offline"]
    assert fake.run.entries["env"] == "some_env"


def test_tracker_problems_never_stop_the_training(tmp_path: Path, install):
    fake = install(FakeWandb([RuntimeError("broken")] * 10))
    cfg = make_cfg(tmp_path)
    init_wandb(cfg)
    finish_wandb(cfg)

    fake.failures.clear()
    init_wandb(cfg)
    fake.run.finish = lambda exit_code: 1 / 0
    finish_wandb(cfg)

    install(None)  # importing wandb raises ImportError now
    init_wandb(cfg)
    finish_wandb(cfg)


@pytest.mark.parametrize("when", ["init", "finish"])
def test_tracker_that_blocks_costs_a_bounded_time(tmp_path: Path, install, monkeypatch, caplog, when):
    fake = install(FakeWandb())
    cfg = make_cfg(tmp_path)
    monkeypatch.setattr(wandb_utils, "SETUP_DEADLINE_SEC", 0.2 if when == "init" else 60)
    monkeypatch.setattr(wandb_utils, "FINISH_DEADLINE_SEC", 0.2)
    never = threading.Event()
    wandb_utils.log.addHandler(caplog.handler)
    try:
        if when == "init":
            fake.init = lambda **_: never.wait()
        init_wandb(cfg)
        if when == "finish":
            fake.run.finish = lambda exit_code: never.wait()
        finish_wandb(cfg)
    finally:
        wandb_utils.log.removeHandler(caplog.handler)
        never.set()  # the threads end
    assert "no answer within 0.2 seconds" in caplog.text


def test_nothing_happens_without_the_flag(tmp_path: Path, install):
    fake = install(FakeWandb())
    cfg = AttrDict(with_wandb=False)
    init_wandb(cfg)
    finish_wandb(cfg)
    assert fake.calls == [] and cfg == {"with_wandb": False}


@pytest.mark.slow
def test_real_client_records_offline_if_the_server_refuses(tmp_path: Path, monkeypatch):
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")  # or the client prints when this process ends
    for name, value in {"BASE_URL": _refusing_server(), "API_KEY": "a" * 40, "SILENT": "true"}.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setattr(wandb_utils, "retry", lambda times, exceptions: _retry_at_once(1, exceptions))
    cfg = make_cfg(tmp_path)
    init_wandb(cfg)
    assert wandb.run is not None and wandb.run.offline
    finish_wandb(cfg)
    wandb.teardown()
    assert list((tmp_path / "wandb").glob(f"wandb/offline-run-*/run-{cfg.wandb_unique_id}.wandb"))


def _refusing_server() -> str:
    """Address of a server that knows no key, as long as this process lives."""

    class Refuse(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            body = b'{"data": null, "errors": [{"message": "unauthorized"}]}'
            self.send_response(401)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Refuse)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{server.server_port}"


@pytest.mark.slow
def test_summaries_reach_the_real_client_offline(tmp_path: Path, monkeypatch):
    wandb = pytest.importorskip("wandb")
    tensorboard = pytest.importorskip("torch.utils.tensorboard")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    cfg = make_cfg(tmp_path)
    init_wandb(cfg)
    writer = tensorboard.SummaryWriter(str(tmp_path / "summary"))
    for step in range(3):
        writer.add_scalar("reward/my_unique_tag", float(step), step)
    writer.close()
    finish_wandb(cfg)
    wandb.teardown()  # waits for the process that writes the file; happens by itself at the end of a program
    (run_file,) = (tmp_path / "wandb").glob(f"wandb/offline-run-*/run-{cfg.wandb_unique_id}.wandb")
    assert b"my_unique_tag" in run_file.read_bytes()
