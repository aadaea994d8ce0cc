"""`python -m sample_factory.enjoy` on experiments that were really trained."""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.integration.harness import cli, train

ORIGINAL_EXPERIMENTS = Path(__file__).parents[1] / "fixtures" / "checkpoints"


def enjoy(train_dir: Path, *args: str) -> tuple[int, str]:
    place = (f"--train_dir={train_dir}", "--experiment=test", "--device=cpu", "--max_num_episodes=3")
    process = cli(*place, *args, module="sample_factory.enjoy")
    output, _ = process.communicate(timeout=50)
    return process.returncode, output


def test_environment_is_found_through_the_module_recorded_at_training_time(tmp_path):
    status, _ = train(tmp_path, "--env_module=tests.integration.fault_env", env="fault_env")
    assert status == 0
    code, output = enjoy(tmp_path, "--env=fault_env", "--no_render")
    last_line = output.strip().splitlines()[-1]
    assert code == 0, output
    assert last_line == "Evaluated fault_env (experiment test, policy 0): 3 episodes, average reward 10.000"


def test_gymnasium_id_without_a_display_and_without_a_gpu(tmp_path, monkeypatch):
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "SDL_VIDEODRIVER"):
        monkeypatch.delenv(name, raising=False)
    assert train(tmp_path)[0] == 0
    code, output = enjoy(tmp_path, "--env=CartPole-v1", "--device=gpu")
    assert code == 0, output
    assert output.count("DISPLAY is not set") == 1
    assert "Evaluated CartPole-v1 (experiment test, policy 0): 3 episodes" in output.splitlines()[-1]


def test_unknown_environment_and_missing_experiment(tmp_path):
    code, output = enjoy(tmp_path, "--env=CartPole-v1")
    assert code == 1 and "--experiment=test" in output and "Traceback" not in output
    shutil.copytree(ORIGINAL_EXPERIMENTS / "gru_discrete", tmp_path / "test")
    code, output = enjoy(tmp_path, "--env=CartPol-v1")
    assert code == 2 and "CartPole-v1" in output and "Traceback" not in output
