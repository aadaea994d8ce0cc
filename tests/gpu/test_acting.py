"""Acting by CUDA graphs: the outputs of the model, with its newest weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from sample_factory.algo.sampling.captured_policy import RNN_STATES, CapturedPolicy
from sample_factory.algo.sampling.request_batching import act
from sample_factory.algo.utils.cuda_graphs import Recording
from sample_factory.algo.utils.tensor_dict import TensorDict
from sample_factory.model.actor_critic import create_actor_critic
from sample_factory.model.model_utils import get_rnn_size
from tests.unit.learning.learner_setup import make_cfg, make_env_info


class Policy:
    def __init__(self, tmp_path: Path, *flags: str) -> None:
        self.cfg, info = make_cfg(tmp_path, "--device=gpu", *flags), make_env_info()
        self.model = create_actor_critic(self.cfg, info.obs_space, info.action_space)
        self.device = torch.device("cuda")
        self.model.model_to_device(self.device)
        self.model.eval()
        self.captured = CapturedPolicy(self._packed, self.device)

    def _packed(self, inputs: TensorDict) -> torch.Tensor:
        states = inputs.pop(RNN_STATES)
        columns = act(self.model, inputs, states, self.device, deterministic=True)
        del columns[2]  # log-probabilities of actions that are sampled, and then replaced by the most likely ones
        return torch.cat(columns, dim=1)

    def inputs(self, n: int, device: str) -> TensorDict:
        states = torch.randn(n, get_rnn_size(self.cfg)).to(device)
        return TensorDict({"obs": torch.randn(n, 4).to(device), RNN_STATES: states})

    def eager(self, inputs: Any) -> torch.Tensor:
        return self._packed(TensorDict({key: value.cuda() for key, value in inputs.items()})).cpu()


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("flags", [(), ("--use_rnn=True",), ("--use_rnn=True", "--rnn_type=lstm")])
def test_recorded_outputs_are_those_of_the_model(tmp_path: Path, flags: tuple[str, ...], device: str) -> None:
    policy = Policy(tmp_path, *flags)
    with torch.inference_mode():
        for n in (5, 30, 16, 5):
            inputs = policy.inputs(n, device)
            recorded = policy.captured.run(inputs)
            assert recorded is not None and recorded.device.type == device
            torch.testing.assert_close(recorded.cpu(), policy.eager(inputs), rtol=1e-4, atol=1e-5)
        with torch.inference_mode(False), torch.no_grad():
            for tensor in policy.model.state_dict().values():
                if tensor.is_floating_point():
                    tensor.mul_(1.1)  # weights and statistics, as a new version is copied
        inputs = policy.inputs(5, device)
        recorded = policy.captured.run(inputs)
        torch.testing.assert_close(recorded.cpu(), policy.eager(inputs), rtol=1e-4, atol=1e-5)


def test_every_replay_samples_anew(tmp_path: Path) -> None:
    policy = Policy(tmp_path)

    def packed(inputs: TensorDict) -> torch.Tensor:
        states = inputs.pop(RNN_STATES)
        return torch.cat(act(policy.model, inputs, states, policy.device, deterministic=False), dim=1)

    captured = CapturedPolicy(packed, policy.device)
    inputs = TensorDict({"obs": torch.zeros(1024, 4), RNN_STATES: torch.zeros(1024, get_rnn_size(policy.cfg))})
    with torch.inference_mode():
        actions = [captured.run(inputs)[:, 0].clone() for _ in range(2)]
    assert not torch.equal(actions[0], actions[1])
    probabilities = torch.bincount(actions[0].long(), minlength=3) / 1024
    assert probabilities.min() > 0.2  # a new policy is indifferent


def test_weights_that_were_replaced_are_recorded_anew(tmp_path: Path) -> None:
    policy = Policy(tmp_path)
    inputs = policy.inputs(5, "cuda")
    with torch.inference_mode():
        assert policy.captured.run(inputs) is not None
        policy.captured.forget()
        with torch.inference_mode(False), torch.no_grad():
            for parameter in policy.model.parameters():
                parameter.data = parameter.data * 1.5
        recorded = policy.captured.run(inputs)
        assert recorded is not None
        torch.testing.assert_close(recorded.cpu(), policy.eager(inputs), rtol=1e-4, atol=1e-5)


def test_random_numbers_go_on_after_a_recording_has_failed() -> None:
    def work() -> float:
        return float(torch.rand(3, device="cuda").sum())  # reads the sum back

    torch.cuda.manual_seed(0)
    with pytest.raises(RuntimeError):
        Recording(work)
    first = torch.rand(3, device="cuda")
    torch.cuda.manual_seed(0)
    assert torch.equal(torch.rand(3, device="cuda"), first)
    replayed = Recording(lambda: torch.rand(3, device="cuda"))
    assert not torch.equal(replayed.replay().clone(), replayed.replay())
