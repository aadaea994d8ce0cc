"""A small population on a real event loop: learners that record what they are told."""

from __future__ import annotations

from collections import deque
from typing import Any

from signal_slot.signal_slot import EventLoop, EventLoopObject, signal

from sample_factory.pbt.population_based_training import PopulationBasedTraining
from sample_factory.utils.attr_dict import AttrDict


class RecordingLearner(EventLoopObject):
    """Slots and signal of a learner worker; saving succeeds at once, as in serial mode."""

    def __init__(self, event_loop: EventLoop, policy_id: int) -> None:
        super().__init__(event_loop, f"LearnerWorker_p{policy_id}")
        self.policy_id = policy_id
        self.received_cfgs: list[dict[str, Any]] = []
        self.loaded_policies: list[int] = []
        self.num_saves = 0

    @signal
    def saved_model(self): ...

    def on_update_cfg(self, new_cfg: dict[str, Any]) -> None:
        self.received_cfgs.append(new_cfg)

    def save(self) -> bool:
        self.num_saves += 1
        self.saved_model.emit(self.policy_id)
        return True

    def load(self, policy_id: int) -> None:
        self.loaded_policies.append(policy_id)


class RecordingWriter:
    def __init__(self) -> None:
        self.scalars: list[tuple[str, float, int]] = []

    def add_scalar(self, tag: str, value: float, step: int) -> None:
        self.scalars.append((tag, value, step))


class SmallRunner(EventLoopObject):
    """The attributes of a runner that PBT uses, on a loop of the given mode."""

    def __init__(self, cfg: AttrDict, reward_shaping: dict[str, Any] | None, serial_mode: bool) -> None:
        super().__init__(EventLoop("Runner_EvtLoop", serial_mode=serial_mode), "Runner")
        self.cfg = cfg
        self.env_info = AttrDict(reward_shaping_scheme=reward_shaping)
        self.env_steps: dict[int, int] = {}
        self.policy_avg_stats: dict[str, list[deque[float]]] = {}
        self.writers = {p: RecordingWriter() for p in range(cfg.num_policies)}
        self.learners = {p: RecordingLearner(self.event_loop, p) for p in range(cfg.num_policies)}
        self.shaping_updates: list[tuple[int, dict[str, Any] | None]] = []

    def update_reward_shaping(self, policy_id: int, scheme: dict[str, Any] | None) -> None:
        self.shaping_updates.append((policy_id, scheme))

    def process_signals(self) -> None:
        """Deliver everything that is queued, and what the deliveries emit, by the loop's own stop protocol."""
        self.event_loop.should_terminate = False
        for _ in range(3):  # the longest conversation: save_model -> saved_model -> load_model, update_cfg
            self.event_loop.stop()
            while not self.event_loop.should_terminate:
                self.event_loop.process_events()
            self.event_loop.should_terminate = False

    def report(self, objectives: list[float], env_steps: int, key: str = "true_objective") -> None:
        self.policy_avg_stats[key] = [deque([value], maxlen=100) for value in objectives]
        self.env_steps = dict.fromkeys(range(self.cfg.num_policies), env_steps)


def make_cfg(train_dir: str, **overrides: Any) -> AttrDict:
    cfg = AttrDict(
        env="some_env",
        experiment="population",
        train_dir=train_dir,
        seed=7,
        num_policies=4,
        with_pbt=True,
        rollout=8,
        batch_size=64,
        learning_rate=1e-3,
        exploration_loss_coeff=0.01,
        value_loss_coeff=0.5,
        max_grad_norm=4.0,
        ppo_clip_ratio=0.1,
        ppo_clip_value=1.0,
        gamma=0.99,
        pbt_period_env_steps=100,
        pbt_start_mutation=200,
        pbt_replace_fraction=0.25,
        pbt_mutation_rate=1.0,
        pbt_replace_reward_gap=0.1,
        pbt_replace_reward_gap_absolute=1e-6,
        pbt_optimize_gamma=False,
        pbt_target_objective="true_objective",
        pbt_perturb_min=1.1,
        pbt_perturb_max=1.5,
    )
    cfg.update(overrides)
    return cfg


def start_population(
    cfg: AttrDict, reward_shaping: dict[str, Any] | None = None, serial_mode: bool = True
) -> tuple[PopulationBasedTraining, SmallRunner]:
    """PBT after start-up: initialised, connected, first parameters delivered."""
    runner = SmallRunner(cfg, reward_shaping, serial_mode)
    pbt = PopulationBasedTraining(cfg, runner)  # type: ignore[arg-type]
    pbt.on_init(runner)
    pbt.on_connect_components(runner)
    pbt.on_start(runner)
    runner.process_signals()
    return pbt, runner
