"""Population-based training (Jaderberg et al. 2017): an observer that tunes and replaces policies while they train.

Every policy p has a row of tuned hyperparameters and a reward shaping scheme. After each period of env steps a policy
that is not among the best mutates; one among the worst first takes over weights, parameters and shaping of a good one.
Policy 0 never mutates: it is the reference of the population.

One update of policy p is a conversation over the signals below; nothing here waits.

    PBT                             learner of the source q            learner of p
     | -- save_model{q} ------------------>|                                 |
     | <------------------- saved_model(q) |                                 |
     | -- load_model{p}(q)  (only if p != q) ------------------------------->|
     | -- update_cfg{p}(hyperparameters) ----------------------------------->|
"""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from signal_slot.signal_slot import EventLoopObject

from sample_factory.algo.runners.runner import AlgoObserver, Runner
from sample_factory.algo.utils.seeding import component_seed_sequence
from sample_factory.cfg.arguments import cfg_dict
from sample_factory.pbt.mutation import (
    SPECIAL_PERTURBATION,
    MutationSettings,
    mutate_hyperparams,
    mutate_reward_shaping,
    perturb_batch_size,
    perturb_exponential_decay,
    perturb_float,
    perturb_vtrace,
)
from sample_factory.pbt.selection import SelectionSettings, choose_source, mean_objectives
from sample_factory.pbt.store import (
    PBT_STATE_VERSION,
    JsonFiles,
    hyperparams_in_checkpoint,
    pbt_state_file,
    policy_cfg_file,
    policy_reward_shaping_file,
    read_json,
    read_json_dict,
)
from sample_factory.utils.typing import Config, PolicyID
from sample_factory.utils.utils import log

__all__ = [
    "HYPERPARAMS_TO_TUNE",
    "REWARD_CATEGORIES_TO_TUNE",
    "SPECIAL_PERTURBATION",
    "PopulationBasedTraining",
    "load_model_signal",
    "perturb_batch_size",
    "perturb_exponential_decay",
    "perturb_float",
    "perturb_vtrace",
    "policy_cfg_file",
    "policy_reward_shaping_file",
    "save_model_signal",
    "update_cfg_signal",
]

# `gamma` joins with --pbt_optimize_gamma, in the copy each instance makes.
HYPERPARAMS_TO_TUNE = {
    "learning_rate",
    "exploration_loss_coeff",
    "value_loss_coeff",
    "max_grad_norm",
    "ppo_clip_ratio",
    "ppo_clip_value",
}

# Environment name prefix -> the only entries of its reward shaping that may change.
REWARD_CATEGORIES_TO_TUNE = {"doom_": ["delta", "selected_weapon"]}

SUMMARY_INTERVAL_SEC = 5 * 60


def update_cfg_signal(policy_id: PolicyID) -> str:
    return f"update_cfg{policy_id}"


def save_model_signal(policy_id: PolicyID) -> str:
    return f"save_model{policy_id}"


def load_model_signal(policy_id: PolicyID) -> str:
    return f"load_model{policy_id}"


class PopulationBasedTraining(AlgoObserver, EventLoopObject):
    """Tunes the population of `runner`. Works on copies only: neither the configuration nor module state changes."""

    def __init__(self, cfg: Config, runner: Runner) -> None:
        EventLoopObject.__init__(self, runner.event_loop, "PBT")
        self.cfg = copy.deepcopy(cfg_dict(cfg))
        self.runner = runner
        self.num_policies: int = self.cfg.num_policies
        self.mutation = MutationSettings.from_cfg(self.cfg)
        self.selection = SelectionSettings.from_cfg(self.cfg)
        self.hyperparams_to_tune = set(HYPERPARAMS_TO_TUNE) | ({"gamma"} if self.cfg.pbt_optimize_gamma else set())
        self.reward_categories = _reward_categories(self.cfg.env)
        # Not `component_rng`: its state is stored with the schedule it belongs to, not in checkpoints.
        self.rng = np.random.default_rng(component_seed_sequence(self.cfg, "pbt"))

        self.files = JsonFiles()
        self.default_policy_cfg = {name: self.cfg[name] for name in sorted(self.hyperparams_to_tune)}
        self.default_reward_shaping: dict[str, Any] | None = None
        self.policy_cfg: list[dict[str, Any]] = []
        self.policy_reward_shaping: list[dict[str, Any] | None] = []

        # Env steps of the last update; the settled ones are those whose outcome is on disk.
        self.last_update: list[int] = [0] * self.num_policies
        self.settled_update: list[int] = [0] * self.num_policies
        self.last_pbt_summaries: list[float] = [time.monotonic()] * self.num_policies
        # Source policy of an update that waits for the checkpoint of the source.
        self.replacement_policy: list[PolicyID | None] = [None] * self.num_policies
        self.is_missing_objective_reported = False

    def on_init(self, runner: Runner) -> None:
        """Read what an earlier run left, mutate what is new, and write everything back."""
        assert runner.env_info is not None  # the runner asks the environment before it calls observers
        self.default_reward_shaping = copy.deepcopy(runner.env_info.reward_shaping_scheme)
        self._load_state()
        for policy_id in range(self.num_policies):
            self.policy_cfg.append(self._initial_policy_cfg(policy_id))
            self.policy_reward_shaping.append(self._initial_reward_shaping(policy_id))
            self._save_policy(policy_id)
        self._save_state()

    def on_connect_components(self, runner: Runner) -> None:
        for policy_id in range(self.num_policies):
            learner = runner.learners[policy_id]
            self.connect(update_cfg_signal(policy_id), learner.on_update_cfg)
            self.connect(save_model_signal(policy_id), learner.save)
            self.connect(load_model_signal(policy_id), learner.load)
            learner.saved_model.connect(self.on_saved_model)

    def on_start(self, runner: Runner) -> None:
        for policy_id in range(self.num_policies):
            self._send_policy(policy_id)

    def on_training_step(self, runner: Runner, training_iteration_since_resume: int) -> None:
        self.files.retry()
        if not self.cfg.with_pbt or self.num_policies < 2:
            return
        for policy_id in range(self.num_policies):
            env_steps = runner.env_steps.get(policy_id)
            if env_steps is None:
                continue
            if self._is_update_due(policy_id, env_steps):
                # Before the update: a crash between its steps must repeat it, so only its end settles the number.
                self.last_update[policy_id] = env_steps
                self._update_policy(policy_id, runner.policy_avg_stats)
                self._write_summaries(policy_id, env_steps)
            elif time.monotonic() - self.last_pbt_summaries[policy_id] > SUMMARY_INTERVAL_SEC:
                self._write_summaries(policy_id, env_steps)

    def on_saved_model(self, saved_policy_id: PolicyID) -> None:
        """A checkpoint of `saved_policy_id` is on disk: finish the updates that waited for it."""
        for policy_id in range(self.num_policies):
            if self.replacement_policy[policy_id] != saved_policy_id:
                continue
            if policy_id != saved_policy_id:
                log.debug("Policy %d continues from the weights of policy %d", policy_id, saved_policy_id)
                self.emit(load_model_signal(policy_id), saved_policy_id)
            self.replacement_policy[policy_id] = None
            self._save_policy(policy_id)
            self._settle_update(policy_id)
            self._send_policy(policy_id)

    def _initial_policy_cfg(self, policy_id: PolicyID) -> dict[str, Any]:
        path = policy_cfg_file(self.cfg, policy_id)
        try:
            saved: dict[str, Any] | None = read_json_dict(path)
        except (FileNotFoundError, ValueError) as exc:
            saved = hyperparams_in_checkpoint(self.cfg, policy_id)
            if saved is not None:
                log.warning("%s is missing or damaged: rebuilt from the copy in a checkpoint", path)
            elif not isinstance(exc, FileNotFoundError):
                raise
        if saved is None:
            log.debug("Initial hyperparameters of policy %d come from the configuration", policy_id)
            return self._mutated_cfg(policy_id, self.default_policy_cfg)
        # A parameter that was not tuned when the file was written starts from the configuration.
        return copy.deepcopy(self.default_policy_cfg) | saved

    def _initial_reward_shaping(self, policy_id: PolicyID) -> dict[str, Any] | None:
        try:
            return read_json(policy_reward_shaping_file(self.cfg, policy_id))
        except FileNotFoundError:
            return self._mutated_shaping(policy_id, self.default_reward_shaping)

    def _mutated_cfg(self, policy_id: PolicyID, params: dict[str, Any]) -> dict[str, Any]:
        if policy_id == 0:
            return copy.deepcopy(params)
        return mutate_hyperparams(
            params, self.default_policy_cfg, self.hyperparams_to_tune, self.mutation, self.cfg, self.rng
        )

    def _mutated_shaping(self, policy_id: PolicyID, scheme: dict[str, Any] | None) -> dict[str, Any] | None:
        if policy_id == 0:
            return copy.deepcopy(scheme)
        return mutate_reward_shaping(
            scheme, self.default_reward_shaping, self.reward_categories, self.mutation, self.cfg, self.rng
        )

    def _is_update_due(self, policy_id: PolicyID, env_steps: int) -> bool:
        if env_steps < self.cfg.pbt_start_mutation:
            return False
        if self.last_update[policy_id] > env_steps + self.cfg.pbt_period_env_steps:
            # The schedule is from a longer life of this experiment (its checkpoints were removed): do not wait for it.
            self.last_update[policy_id] = 0
        return env_steps - self.last_update[policy_id] > self.cfg.pbt_period_env_steps

    def _update_policy(self, policy_id: PolicyID, policy_avg_stats: Mapping[str, Any]) -> None:
        objectives = mean_objectives(policy_avg_stats, self.cfg.pbt_target_objective, self.num_policies)
        if objectives is None:
            self._report_missing_objective(policy_avg_stats)
            self._settle_update(policy_id)
            return

        source = choose_source(policy_id, objectives, self.selection, self.rng)
        if source is None:
            log.debug("Policy %d is among the best, objectives: %s", policy_id, objectives)
            self._settle_update(policy_id)
            return

        if source != policy_id:
            log.debug("Policy %d is replaced by policy %d, objectives: %s", policy_id, source, objectives)
        self.policy_cfg[policy_id] = self._mutated_cfg(policy_id, self.policy_cfg[source])
        self.policy_reward_shaping[policy_id] = self._mutated_shaping(policy_id, self.policy_reward_shaping[source])
        self.replacement_policy[policy_id] = source
        self.emit(save_model_signal(source))

    def _report_missing_objective(self, policy_avg_stats: Mapping[str, Any]) -> None:
        if self.is_missing_objective_reported:
            return
        self.is_missing_objective_reported = True
        log.warning(
            "PBT does not act yet: not every policy has reported %r (--pbt_target_objective); reported so far: %s",
            self.cfg.pbt_target_objective,
            sorted(policy_avg_stats),
        )

    def _send_policy(self, policy_id: PolicyID) -> None:
        # Copies: in serial mode the receivers live in this process and must not share our rows.
        self.emit(update_cfg_signal(policy_id), copy.deepcopy(self.policy_cfg[policy_id]))
        self.runner.update_reward_shaping(policy_id, copy.deepcopy(self.policy_reward_shaping[policy_id]))

    def _save_policy(self, policy_id: PolicyID) -> None:
        self.files.write(policy_cfg_file(self.cfg, policy_id), self.policy_cfg[policy_id])
        self.files.write(policy_reward_shaping_file(self.cfg, policy_id), self.policy_reward_shaping[policy_id])

    def _settle_update(self, policy_id: PolicyID) -> None:
        self.settled_update[policy_id] = self.last_update[policy_id]
        self._save_state()

    def _save_state(self) -> None:
        state = {
            "version": PBT_STATE_VERSION,
            "last_update": self.settled_update,
            "seed": self.cfg.seed,
            "rng": None if self.cfg.seed is None else self.rng.bit_generator.state,
        }
        self.files.write(pbt_state_file(self.cfg), state)

    def _load_state(self) -> None:
        """Continue the schedule (and, with the same seed, the random stream). Without a file both start anew."""
        try:
            state = read_json_dict(pbt_state_file(self.cfg))
        except FileNotFoundError:
            return
        for policy_id, env_steps in enumerate(state["last_update"][: self.num_policies]):
            self.last_update[policy_id] = self.settled_update[policy_id] = env_steps
        if state["rng"] is not None and state["seed"] == self.cfg.seed:
            self.rng.bit_generator.state = state["rng"]

    def _write_summaries(self, policy_id: PolicyID, env_steps: int) -> None:
        writer = self.runner.writers[policy_id]
        for tag, value in _summary_scalars("zz_pbt/cfg", self.policy_cfg[policy_id]):
            writer.add_scalar(tag, value, env_steps)
        for tag, value in _summary_scalars("zz_pbt/rew", self.policy_reward_shaping[policy_id] or {}):
            writer.add_scalar(tag, value, env_steps)
        self.last_pbt_summaries[policy_id] = time.monotonic()


def _reward_categories(env_name: str) -> list[str] | None:
    for prefix, categories in REWARD_CATEGORIES_TO_TUNE.items():
        if env_name.startswith(prefix):
            return list(categories)
    return None


def _summary_scalars(prefix: str, values: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """(tag, value) of every number: `<prefix>_<leaf name>`, with the position appended for sequences."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _summary_scalars(prefix, value)
        elif isinstance(value, (tuple, list)):
            elements = {f"{name}_{i}": element for i, element in enumerate(value)}
            yield from _summary_scalars(prefix, elements)
        elif isinstance(value, (bool, int, float)):
            yield f"{prefix}_{name}", float(value)
