"""The evaluation loop: one environment, one policy, no learning."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from sample_factory.algo.evaluators.episode_stats import EpisodeStats
from sample_factory.algo.sampling.batched_sampling import preprocess_actions
from sample_factory.algo.utils.action_distributions import argmax_actions
from sample_factory.algo.utils.env_info import EnvInfo
from sample_factory.algo.utils.rl_utils import make_dones, prepare_and_normalize_obs
from sample_factory.algo.utils.tensor_dict import TensorDict
from sample_factory.model.actor_critic import ActorCritic
from sample_factory.model.model_utils import get_rnn_size
from sample_factory.utils.typing import Config, Env
from sample_factory.utils.utils import log

ACTION_MASK_KEY = "action_mask"
LOG_EVERY_NUM_FRAMES = 100


def apply_eval_frameskip(cfg: Config) -> int:
    """Let the environment skip fewer frames, so that they can be seen; a divisor, as checked before.

    Returns:
        How often each action is repeated instead: the policy acts as often as in training.
    """
    if cfg.eval_env_frameskip is None:
        cfg.eval_env_frameskip = cfg.env_frameskip
    render_action_repeat = cfg.env_frameskip // cfg.eval_env_frameskip
    cfg.env_frameskip = cfg.eval_env_frameskip
    return render_action_repeat


class EvaluationPolicy:
    """Acts for all agents of one environment and carries their recurrent states."""

    def __init__(self, cfg: Config, env_info: EnvInfo, actor_critic: ActorCritic, device: torch.device) -> None:
        self.env_info = env_info
        self.actor_critic = actor_critic
        self.device = device
        self.is_deterministic: bool = cfg.eval_deterministic
        self.obs_keys = list(env_info.obs_space.spaces)  # type: ignore[union-attr]
        self.rnn_states = torch.zeros(env_info.num_agents, get_rnn_size(cfg), device=device)  # [A, rnn_size]
        self.normalized_obs: TensorDict | dict[str, Tensor] = {}

    def act(self, obs: dict[str, Tensor]) -> np.ndarray | list | Tensor:
        """Actions of all agents in the form the batched environment wants."""
        # A new dict: environments reuse theirs, and preparing moves its tensors to the device.
        inputs = TensorDict({key: obs[key] for key in self.obs_keys})
        action_mask = inputs.pop(ACTION_MASK_KEY, None)
        self.normalized_obs = prepare_and_normalize_obs(self.actor_critic, inputs)
        if action_mask is None:
            outputs = self.actor_critic(self.normalized_obs, self.rnn_states)
        else:
            outputs = self.actor_critic(self.normalized_obs, self.rnn_states, action_mask=action_mask.to(self.device))
        self.rnn_states = outputs["new_rnn_states"]
        actions = outputs["actions"]
        if self.is_deterministic:
            actions = argmax_actions(self.actor_critic.action_distribution())
        if actions.ndim < 2:
            actions = actions.unsqueeze(-1)  # [A, num_actions]
        return preprocess_actions(self.env_info, actions)

    def forget(self, dones: np.ndarray) -> None:
        """Zero the recurrent states of the agents whose episode ended."""
        keep = torch.from_numpy(~dones).to(self.device)
        self.rnn_states = self.rnn_states * keep.unsqueeze(-1)


class EvaluationLoop:
    """Steps the environment until the frame or the episode limit is reached.

    `on_frame(num_episodes)` is called before every environment step, `on_episode_end(num_episodes)` when all agents
    finish in the same step.
    """

    def __init__(
        self,
        cfg: Config,
        env: Env,
        policy: EvaluationPolicy,
        render_action_repeat: int,
        on_frame: Callable[[int], None],
        on_episode_end: Callable[[int], None],
    ) -> None:
        self.env = env
        self.policy = policy
        self.render_action_repeat = render_action_repeat
        self.max_num_frames = cfg.max_num_frames
        self.max_num_episodes = cfg.max_num_episodes
        self.on_frame = on_frame
        self.on_episode_end = on_episode_end
        self.stats = EpisodeStats(policy.env_info.num_agents, cfg.use_record_episode_statistics)
        self.num_frames = 0

    def run(self, first_obs: dict[str, Tensor]) -> EpisodeStats:
        """Evaluate from the observation of a reset environment; returns what was collected."""
        obs = first_obs
        with torch.no_grad():
            while not self._is_finished():
                actions = self.policy.act(obs)
                for _ in range(self.render_action_repeat):
                    obs, dones = self._step(actions)
                    if dones.all() or self._is_finished():
                        break
        return self.stats

    def _is_finished(self) -> bool:
        return self.num_frames >= self.max_num_frames or self.stats.num_episodes >= self.max_num_episodes

    def _step(self, actions: np.ndarray | list | Tensor) -> tuple[dict[str, Tensor], np.ndarray]:
        self.on_frame(self.stats.num_episodes)
        obs, rewards, terminated, truncated, infos = self.env.step(actions)
        dones = make_dones(terminated, truncated).cpu().numpy().astype(bool)  # [A]
        self.num_frames += 1
        if self.num_frames % LOG_EVERY_NUM_FRAMES == 0:
            log.debug("Num frames %d...", self.num_frames)

        self.stats.add_step(rewards.cpu().numpy(), dones, infos)
        if dones.any():
            self.policy.forget(dones)
            self._report()
        if dones.all():
            self.on_episode_end(self.stats.num_episodes)
        return obs, dones

    def _report(self) -> None:
        report = self.stats.pop_report()
        if report is not None:
            for line in report.splitlines():
                log.info(line)
