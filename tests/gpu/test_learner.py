"""Learning on a GPU: the numbers of the CPU, whether kernels are launched one by one or from a CUDA graph."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces

from sample_factory.algo.learning.learner import Learner
from sample_factory.algo.utils.tensor_dict import TensorDict
from sample_factory.model.gru_gpu import gru_sequence
from tests.unit.learning.learner_setup import invalidate, make_batch, make_cfg, make_env_info, make_learner

IMAGE = spaces.Dict(obs=spaces.Box(0, 255, (4, 84, 84), np.uint8))
MANY_UPDATES = ("--num_batches_per_epoch=2", "--num_epochs=2", "--learning_rate=0.001")
VTRACE = ("--with_vtrace=True", "--normalize_returns=False", "--recurrence=8")
GRU = ("--use_rnn=True", "--rnn_type=gru", "--rnn_num_layers=2")
CASES: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {
    "mlp": ((), {}),
    "continuous": ((), {"action_space": spaces.Box(-1, 1, (3,), np.float32)}),
    "kl": (("--kl_loss_coeff=0.1", "--exploration_loss=symmetric_kl"), {}),
    "vtrace": (VTRACE, {}),
    "gru": (GRU, {}),
    "gru_vtrace": ((*GRU, *VTRACE), {}),
    "image": (
        ("--encoder_conv_architecture=convnet_atari", "--encoder_conv_mlp_layers", "32", "--obs_scale=255.0"),
        {"obs_space": IMAGE},
    ),
    "not_clipped": (("--max_grad_norm=0",), {}),
    "schedule": (("--lr_schedule=kl_adaptive_minibatch",), {}),
}


def train(
    tmp_path: Path, device: str, *flags: str, num_iterations: int = 6, one_slot: bool = False, **env_info: Any
) -> Learner:
    """``one_slot``: batches come in the same memory, as they do from a batcher."""
    cfg = make_cfg(tmp_path, f"--device={device}", *MANY_UPDATES, *flags)
    learner = make_learner(cfg, make_env_info(**env_info))
    slot = to_device(make_batch(learner), learner.device)
    for iteration in range(num_iterations):
        batch = to_device(make_batch(learner, seed=iteration), learner.device)
        if one_slot:
            copy_into(slot, batch)
        learner.train(slot if one_slot else batch)
    return learner


def copy_into(target: TensorDict, source: TensorDict) -> None:
    for key, value in source.items():
        if isinstance(value, dict):
            copy_into(target[key], value)
        else:
            target[key].copy_(value)


def to_device(batch: TensorDict, device: torch.device) -> TensorDict:
    return TensorDict({k: to_device(v, device) if isinstance(v, dict) else v.to(device) for k, v in batch.items()})


def numbers(learner: Learner) -> dict[str, torch.Tensor]:
    return {name: value.detach().cpu() for name, value in learner.actor_critic.state_dict().items()}


@pytest.mark.parametrize("graphs, one_slot", [("never", False), ("auto", False), ("auto", True)])
@pytest.mark.parametrize("case", CASES)
def test_gpu_learns_what_the_cpu_learns(tmp_path: Path, case: str, graphs: str, one_slot: bool) -> None:
    flags, env_info = CASES[case]
    on_cpu = train(tmp_path / "cpu", "cpu", *flags, **env_info)
    on_gpu = train(tmp_path / "gpu", "gpu", f"--cuda_graphs={graphs}", *flags, one_slot=one_slot, **env_info)

    assert on_gpu.device.type == "cuda"
    assert (on_gpu._captured.num_recordings > 0) == (graphs == "auto")
    assert on_gpu.train_step == on_cpu.train_step == 24
    assert on_gpu.curr_lr == pytest.approx(on_cpu.curr_lr, rel=1e-4)
    if graphs == "never":
        assert not on_gpu._captured.preparation._recordings
    elif one_slot:
        assert on_gpu._captured.preparation._recordings
    expected = numbers(on_cpu)
    for name, value in numbers(on_gpu).items():
        torch.testing.assert_close(value, expected[name], rtol=2e-2, atol=2e-3, msg=lambda m, n=name: f"{n}: {m}")


def test_recorded_steps_skip_gradients_that_are_not_finite(tmp_path: Path) -> None:
    learner = train(tmp_path, "gpu")
    assert learner._captured.num_recordings > 0
    before, train_step = numbers(learner), learner.train_step
    batch = to_device(make_batch(learner, seed=9), learner.device)
    batch["log_prob_actions"][:, 0] = torch.nan  # not looked at when samples are chosen
    learner.train(batch)

    assert learner.train_step == train_step and learner._skips.total == 4
    after = numbers(learner)
    for name in before:
        if "normalizer" not in name:
            assert torch.equal(after[name], before[name]), name


def test_steps_with_invalid_samples_do_not_keep_others_from_being_recorded(tmp_path: Path) -> None:
    learner = make_learner(make_cfg(tmp_path, "--device=gpu", *MANY_UPDATES))
    for seed in range(6):
        batch = make_batch(learner, seed=seed)
        if seed < 2:
            invalidate(batch)
        learner.train(to_device(batch, learner.device))
    assert learner._captured.num_recordings > 0
    batch = make_batch(learner, seed=7)
    invalidate(batch)
    before = learner.train_step
    learner.train(to_device(batch, learner.device))
    assert learner.train_step > before


def test_changes_of_the_configuration_reach_recorded_steps(tmp_path: Path) -> None:
    learners = [train(tmp_path / graphs, "gpu", f"--cuda_graphs={graphs}") for graphs in ("never", "auto")]
    for learner in learners:
        learner.set_new_cfg({"learning_rate": 0.01, "exploration_loss_coeff": 0.5})
        for seed in range(4):
            learner.train(to_device(make_batch(learner, seed=seed), learner.device))
    expected = numbers(learners[0])
    for name, value in numbers(learners[1]).items():
        torch.testing.assert_close(value, expected[name], rtol=2e-2, atol=2e-3, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("graphs", ["never", "auto"])
def test_host_does_not_wait_for_single_minibatches(tmp_path: Path, graphs: str) -> None:
    counts = []
    for num_minibatches in (2, 4):
        flags = (f"--cuda_graphs={graphs}", f"--num_batches_per_epoch={num_minibatches}", "--num_epochs=1")
        learner = train(tmp_path / f"{num_minibatches}", "gpu", *flags)
        batch = to_device(make_batch(learner, seed=7), learner.device)
        for _ in range(5):  # everything that can be recorded is
            learner.train(batch)
        learner.last_summary_time = 1e12
        torch.cuda.set_sync_debug_mode("warn")
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                learner.train(batch)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        counts.append(sum("synchroniz" in str(warning.message) for warning in caught))
    assert counts[0] == counts[1] <= 6, counts


def test_checkpoints_move_between_devices(tmp_path: Path) -> None:
    on_gpu = train(tmp_path, "gpu")
    assert on_gpu.save()
    on_gpu.finish_saves()
    on_cpu = make_learner(make_cfg(tmp_path, "--device=cpu", *MANY_UPDATES))
    assert on_cpu.train_step == on_gpu.train_step
    expected = numbers(on_gpu)
    for name, value in numbers(on_cpu).items():
        assert torch.equal(value, expected[name]), name
    on_cpu.train(make_batch(on_cpu))


def test_gru_on_the_gpu_is_that_of_torch() -> None:
    torch.manual_seed(0)
    num_steps, num_rows, size = 7, 5, 6
    core = torch.nn.GRU(4, size, 2).cuda()
    x = torch.randn(num_rows * num_steps, 4, device="cuda", requires_grad=True)
    initial = torch.randn(num_rows, 2 * size, device="cuda")
    ends = torch.rand(num_rows * num_steps, device="cuda") < 0.3

    ours = gru_sequence(core, x, initial, ends, num_steps)
    weights = torch.randn_like(ours)
    gradients = torch.autograd.grad((ours * weights).sum(), [x, *core.parameters()])

    rows = []
    for row in range(num_rows):
        state = initial[row].view(2, 1, size)
        for t in range(num_steps):
            at = row * num_steps + t
            output, state = core(x[at].view(1, 1, -1), state.contiguous())
            rows.append(output.view(-1))
            state = state * (~ends[at]).float()
    expected = torch.stack(rows)
    expected_gradients = torch.autograd.grad((expected * weights).sum(), [x, *core.parameters()])
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-5)
    for gradient, expected_gradient in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(gradient, expected_gradient, rtol=1e-3, atol=1e-4)
