"""Which policy controls which agent, and for how long."""

from __future__ import annotations

from sample_factory.algo.utils.env_info import EnvInfo
from sample_factory.algo.utils.seeding import component_rng
from sample_factory.utils.typing import Config, PolicyID

# Agents change policy at the end of an episode, at most once in this many requests per agent...
_RESAMPLE_PERIOD_PER_AGENT = 10
# ...except early in training, when every match-up should be seen quickly.
_NUM_EARLY_REQUESTS = 5


class AgentPolicyMapping:
    """Deals out policies to the agents of the environments of one split.

    Synchronous mode: environment ``i`` (counted over the whole run) always belongs to policy ``i % P``, so that all
    policies receive equally much experience. Asynchronous mode: uniformly random, resampled now and then; with
    ``pbt_mix_policies_in_one_env`` independently for every agent, else one policy per environment.
    """

    def __init__(self, cfg: Config, env_info: EnvInfo, worker_idx: int = 0, split_idx: int = 0):
        self.num_agents = env_info.num_agents
        self.num_policies = cfg.num_policies
        self.mix_policies_in_one_env = cfg.pbt_mix_policies_in_one_env
        self.sync_mode = not cfg.async_rl
        num_envs = cfg.num_workers * cfg.num_envs_per_worker
        if self.sync_mode and num_envs % self.num_policies:
            raise ValueError(
                f"--async_rl=False: {num_envs} environments cannot be divided among "
                f"--num_policies={self.num_policies}; make num_workers * num_envs_per_worker a multiple of num_policies"
            )
        self._rng = component_rng(cfg, "agent_policy_mapping", worker_idx, split_idx)
        self._num_requests: dict[int, int] = {}
        self._policies: dict[int, list[PolicyID]] = {}

    def get_policy_for_agent(self, agent_idx: int, env_idx: int, global_env_idx: int) -> PolicyID:
        """Called once per agent at the start and once at each of its episode ends; ``env_idx`` counts within the
        split.
        """
        if self.num_policies == 1:
            return 0
        if self.sync_mode:
            return global_env_idx % self.num_policies

        num_requests = self._num_requests.get(env_idx, 0)
        if self._should_resample(num_requests):
            self._policies[env_idx] = self._sample_policies()
        self._num_requests[env_idx] = num_requests + 1
        return self._policies[env_idx][agent_idx]

    def _should_resample(self, num_requests: int) -> bool:
        if num_requests % (self.num_agents * _RESAMPLE_PERIOD_PER_AGENT) == 0:
            return True
        if self.mix_policies_in_one_env:
            return num_requests < _NUM_EARLY_REQUESTS
        # Without mixing, resampling between two agents of one round would give them different policies.
        return num_requests < _NUM_EARLY_REQUESTS * self.num_agents and num_requests % self.num_agents == 0

    def _sample_policies(self) -> list[PolicyID]:
        if self.mix_policies_in_one_env:
            return self._rng.integers(self.num_policies, size=self.num_agents).tolist()
        return [int(self._rng.integers(self.num_policies))] * self.num_agents
