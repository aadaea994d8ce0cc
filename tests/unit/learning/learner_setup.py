"""Small real learners and random batches for the tests of this folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium import spaces

from sample_factory.algo.learning.learner import Learner
from sample_factory.algo.utils.action_distributions import get_action_distribution, sample_actions_log_probs
from sample_factory.algo.utils.env_info import EnvInfo
from sample_factory.algo.utils.model_sharing import ParameterServer
from sample_factory.algo.utils.shared_buffers import alloc_trajectory_tensors
from sample_factory.algo.utils.tensor_dict import TensorDict
from sample_factory.cfg.arguments import parse_full_cfg, parse_sf_args
from sample_factory.model.model_utils import get_rnn_size
from sample_factory.utils.attr_dict import AttrDict

OBS_SPACE = spaces.Dict(obs=spaces.Box(-10.0, 10.0, (4,), np.float32))


def make_cfg(train_dir: Path | str, *argv: str) -> AttrDict:
    """A tiny serial configuration; later arguments win."""
    defaults = [
        "--env=test",
        "--experiment=test",
        f"--train_dir={train_dir}",
        "--device=cpu",
        "--serial_mode=True",
        "--seed=5",
        "--rollout=8",
        "--batch_size=32",
        "--use_rnn=False",
        "--encoder_mlp_layers",
        "8",
        "--rnn_size=8",
        "--learning_rate=0.01",
    ]
    parser, _ = parse_sf_args([*defaults, *argv])
    cfg = AttrDict(vars(parse_full_cfg(parser, [*defaults, *argv])))
    # Only what a test passes counts as given on the command line.
    given = {arg.split("=")[0].lstrip("-") for arg in argv}
    cfg.cli_args = {key: value for key, value in cfg.cli_args.items() if key in given}
    return cfg


def make_env_info(
    action_space: Any = None, obs_space: spaces.Dict = OBS_SPACE, frameskip: int = 1, num_agents: int = 1
) -> EnvInfo:
    return EnvInfo(
        obs_space=obs_space,
        action_space=spaces.Discrete(3) if action_space is None else action_space,
        num_agents=num_agents,
        gpu_actions=False,
        gpu_observations=False,
        action_splits=None,
        all_discrete=None,
        frameskip=frameskip,
    )


def make_learner(
    cfg: AttrDict,
    env_info: EnvInfo | None = None,
    policy_id: int = 0,
    cls: type[Learner] = Learner,
    init: bool = True,
) -> Learner:
    versions = torch.zeros([cfg.num_policies], dtype=torch.int32)
    server = ParameterServer(policy_id, versions, cfg.serial_mode)
    learner = cls(cfg, env_info or make_env_info(), versions, policy_id, server)
    if init:
        learner.init()
    return learner


def make_batch(learner: Learner, seed: int = 0, num_rows: int | None = None) -> TensorDict:
    """Random trajectories with behaviour logits, log-probabilities and values that belong together."""
    cfg, env_info = learner.cfg, learner.env_info
    if num_rows is None:
        num_rows = cfg.num_batches_per_epoch * cfg.batch_size // cfg.rollout
    gen = torch.Generator().manual_seed(seed)
    batch = alloc_trajectory_tensors(env_info, num_rows, cfg.rollout, get_rnn_size(cfg), "cpu", share=False)
    for key, obs in batch["obs"].items():
        if obs.is_floating_point():
            batch["obs"][key] = torch.randn(obs.shape, generator=gen) * 2.0 + 1.0
        elif key == "action_mask":
            batch["obs"][key] = torch.ones_like(obs)
        else:
            batch["obs"][key] = torch.randint(0, 255, obs.shape, generator=gen).to(obs.dtype)

    logits = torch.randn(batch["action_logits"].shape, generator=gen) * 0.5
    masks = batch["obs"].get("action_mask")
    flat_mask = None if masks is None else masks[:, :-1].flatten(0, 1)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        distribution = get_action_distribution(env_info.action_space, logits.flatten(0, 1), flat_mask)
        actions, log_probs = sample_actions_log_probs(distribution)
    shape = batch["rewards"].shape
    batch["action_logits"] = logits
    batch["actions"] = actions.float().reshape(batch["actions"].shape)
    batch["log_prob_actions"] = log_probs.reshape(shape)
    batch["values"] = torch.randn(batch["values"].shape, generator=gen) * 0.3
    batch["rnn_states"] = torch.randn(batch["rnn_states"].shape, generator=gen) * 0.3
    batch["rewards"] = torch.randn(shape, generator=gen)
    batch["dones"] = torch.rand(shape, generator=gen) < 0.15
    batch["time_outs"] = batch["dones"] & (torch.rand(shape, generator=gen) < 0.5)
    batch["policy_id"] = torch.full(shape, learner.policy_id, dtype=torch.int32)
    batch["policy_version"] = torch.full(shape, float(learner.train_step))
    return batch


def invalidate(batch: TensorDict) -> None:
    """Steps of other policies, and one whole row collected with a policy that is too old."""
    batch["policy_id"][0, 3:5] = 1
    batch["policy_id"][1, :2] = -1
    batch["policy_id"][2, -1] = 1
    batch["policy_version"][3] = -2000.0


def weights(learner: Learner) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in learner.actor_critic.named_parameters()}


def checkpoint_folder(train_dir: Path, policy_id: int = 0) -> Path:
    return train_dir / "test" / f"checkpoint_p{policy_id}"
