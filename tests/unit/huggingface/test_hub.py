from __future__ import annotations

import json
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from sample_factory.huggingface import huggingface_utils, load_from_hub, push_to_hub
from sample_factory.huggingface.huggingface_utils import generate_model_card, load_from_hf, push_to_hf


def test_missing_package_names_the_repair(monkeypatch, tmp_path: Path):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ImportError, match="pip install huggingface_hub"):
        generate_model_card(str(tmp_path), "APPO", "env", "me/repo")


def test_import_loads_no_hub():
    program = "import sys; from sample_factory.huggingface import load_from_hub, push_to_hub, huggingface_utils\n"
    subprocess.run([sys.executable, "-c", program + "assert 'huggingface_hub' not in sys.modules"], check=True)


def test_missing_repository_name_is_refused(tmp_path: Path):
    with pytest.raises(ValueError, match="--hf_repository is missing"):
        push_to_hf(str(tmp_path), "")
    with pytest.raises(ValueError, match="--hf_repository is missing"):
        load_from_hf(str(tmp_path), "")


@pytest.mark.parametrize("name", ["user/..", "..", "user/", "user/."])
def test_repositories_are_downloaded_into_a_folder_of_their_own(tmp_path: Path, name: str, monkeypatch):
    monkeypatch.setattr(huggingface_utils, "import_hub", lambda: pytest.fail("nothing may be downloaded"))
    with pytest.raises(ValueError, match="--hf_repository="):
        load_from_hf(str(tmp_path / "train_dir"), name)


def test_model_card(tmp_path: Path):
    hub = pytest.importorskip("huggingface_hub")
    generate_model_card(str(tmp_path), "APPO", "doom_basic", "me/repo", [1.0, 2.0, 3.0], "pkg.enjoy", None)
    card = hub.ModelCard.load(tmp_path / "README.md")
    data = card.data
    assert data.library_name == "sample-factory"
    assert data.tags == ["deep-reinforcement-learning", "reinforcement-learning", "sample-factory"]
    (result,) = data.eval_results
    assert (result.dataset_name, result.metric_type, result.metric_value) == (
        "doom_basic",
        "mean_reward",
        "2.00 +/- 0.82",
    )
    assert "load_from_hub -r me/repo" in card.text
    assert "python -m pkg.enjoy --algo=APPO --env=doom_basic --train_dir=./train_dir --experiment=repo" in card.text
    assert "python -m <path.to.train.module> --algo=APPO" in card.text


def test_model_card_without_evaluation(tmp_path: Path):
    hub = pytest.importorskip("huggingface_hub")
    generate_model_card(str(tmp_path), "APPO", "doom_basic", "me/repo")
    assert hub.ModelCard.load(tmp_path / "README.md").data.eval_results is None


class RecordingApi:
    """Stands in for `HfApi`: uploading needs an account."""

    calls: list[tuple] = []

    def create_repo(self, repo_id, private, exist_ok):
        self.calls.append(("create_repo", repo_id, private, exist_ok))
        return f"https://huggingface.co/{repo_id}"

    def upload_folder(self, repo_id, folder_path, path_in_repo, ignore_patterns, commit_message):
        self.calls.append(("upload_folder", repo_id, folder_path, tuple(ignore_patterns)))


def test_push_script(tmp_path: Path, monkeypatch):
    hub = pytest.importorskip("huggingface_hub")
    monkeypatch.setattr(hub, "HfApi", RecordingApi)
    monkeypatch.setattr(RecordingApi, "calls", [])
    (tmp_path / "cfg.json").write_text(json.dumps({"algo": "APPO", "env": "my_env"}))  # the name of old versions
    argv = ["-r", "me/repo", "-d", str(tmp_path), "--train_script=pkg.train"]
    assert push_to_hub.main(argv) == 0
    assert RecordingApi.calls == [
        ("create_repo", "me/repo", False, True),
        ("upload_folder", "me/repo", str(tmp_path), (".git/*",)),
    ]
    assert "python -m pkg.train" in (tmp_path / "README.md").read_text()
    assert (tmp_path / "config.json").exists() and not (tmp_path / "cfg.json").exists()


def test_push_without_experiment(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match=r"has no config\.json"):
        push_to_hub.main(["-r", "me/repo", "-d", str(tmp_path)])


FILES = {"config.json": b'{"algo": "APPO"}', "checkpoint_p0/checkpoint_000000001_64.pth": b"weights"}
COMMIT = "0123456789abcdef0123456789abcdef01234567"


class HubHandler(BaseHTTPRequestHandler):
    """The two requests of a download: the list of files, then each file."""

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def _answer(self, with_body: bool) -> None:
        path = self.path.split("?")[0]
        if path.startswith("/api/models/me/repo/tree/"):
            tree = [{"type": "file", "path": name, "size": len(data), "oid": "0" * 40} for name, data in FILES.items()]
            self._send(json.dumps(tree).encode(), "application/json", with_body)
        elif path.startswith("/api/models/me/repo"):
            info = {"id": "me/repo", "sha": COMMIT, "siblings": [{"rfilename": name} for name in FILES]}
            self._send(json.dumps(info).encode(), "application/json", with_body)
        else:
            name = path.partition(f"/me/repo/resolve/{COMMIT}/")[2]
            self._send(FILES[name], "application/octet-stream", with_body)

    def _send(self, body: bytes, content_type: str, with_body: bool) -> None:
        self.send_response(200)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", f'"{hash(body) & 0xFFFFFFFF:040x}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        if with_body:
            self.wfile.write(body)

    def log_message(self, *args) -> None:
        """Keep the test output clean."""


def test_q59_download_with_the_current_hub_client(tmp_path: Path, monkeypatch):
    hub = pytest.importorskip("huggingface_hub")
    server = ThreadingHTTPServer(("127.0.0.1", 0), HubHandler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    endpoint = f"http://127.0.0.1:{server.server_port}"
    download = hub.snapshot_download

    def from_the_test_server(**kwargs):
        return download(**kwargs, endpoint=endpoint, cache_dir=str(tmp_path / "cache"), token=False)

    monkeypatch.setattr(huggingface_utils.import_hub(), "snapshot_download", from_the_test_server)
    try:
        assert load_from_hub.main(["-r", "me/repo", "-d", str(tmp_path / "train_dir")]) == 0
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
    for name, data in FILES.items():
        assert (tmp_path / "train_dir" / "repo" / name).read_bytes() == data
