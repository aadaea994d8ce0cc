"""The learning proofs: what is trained, with which flags, by which seeds, and what counts as solved."""

from __future__ import annotations

from dataclasses import dataclass

# One small network on two cores; the environments need no memory unless a task says so.
_SMALL = {
    "device": "cpu",
    "num_workers": "2",
    "worker_num_splits": "2",
    "encoder_mlp_layers": "64 64",
    "nonlinearity": "tanh",
    "use_rnn": "False",
    "save_every_sec": "3600",
}

_CARTPOLE = _SMALL | {
    "num_envs_per_worker": "8",
    "rollout": "128",
    "batch_size": "512",
    "num_batches_per_epoch": "4",
    "num_epochs": "6",
    "learning_rate": "0.001",
    "lr_schedule": "linear_decay",
    "exploration_loss_coeff": "0.0",
    "ppo_clip_ratio": "0.2",
    "max_grad_norm": "0.5",
    "value_bootstrap": "True",
    "gamma": "0.99",
    "train_for_env_steps": "250000",
}

_ACROBOT = _SMALL | {
    "num_envs_per_worker": "8",
    "rollout": "64",
    "batch_size": "1024",
    "num_epochs": "4",
    "learning_rate": "0.001",
    "gamma": "0.99",
    "exploration_loss_coeff": "0.003",
    "train_for_env_steps": "400000",
}

_PENDULUM = _SMALL | {
    "num_envs_per_worker": "8",
    "rollout": "64",
    "batch_size": "1024",
    "num_epochs": "10",
    "learning_rate": "0.001",
    "gamma": "0.9",
    "gae_lambda": "0.95",
    "exploration_loss_coeff": "0.0",
    "adaptive_stddev": "False",
    "train_for_env_steps": "500000",
}


_MAZE = {
    "maze_height": "5",
    "maze_width": "5",
    "maze_n_walls": "5",
    "maze_max_episode_steps": "50",
    "rnn_size": "32",
    "batch_size": "512",
    "num_batches_per_epoch": "4",
    "num_epochs": "4",
    "learning_rate": "0.004",
    "exploration_loss_coeff": "0.01",
    "curriculum_buffer_size": "256",
    "curriculum_temp": "1.0",
    "train_for_env_steps": "500000",
}


@dataclass(frozen=True)
class Task:
    """A training by every seed; solved if the mean reward of the evaluation is on the right side of the bound."""

    name: str
    description: str
    train_module: str
    env: str
    flags: dict[str, str]
    seeds: tuple[int, ...]
    at_least: float | None = None
    at_most: float | None = None
    is_compared: bool = False

    def is_solved(self, reward: float) -> bool:
        above = self.at_least is None or reward >= self.at_least
        return above and (self.at_most is None or reward <= self.at_most)

    @property
    def criterion(self) -> str:
        bounds = [f">= {self.at_least:g}" if self.at_least is not None else ""]
        bounds.append(f"<= {self.at_most:g}" if self.at_most is not None else "")
        return " and ".join(bound for bound in bounds if bound)


def _gym(
    name: str, description: str, env: str, flags: dict[str, str], num_seeds: int, at_least: float, **kw: bool
) -> Task:
    seeds = tuple(range(1, num_seeds + 1))
    return Task(name, description, "sf_examples.train_gym_env", env, flags, seeds, at_least=at_least, **kw)


def _cartpole(mode: str, flags: dict[str, str]) -> Task:
    return _gym(f"cartpole_{mode}", f"CartPole-v1, {mode} mode", "CartPole-v1", _CARTPOLE | flags, 5, 475.0)


def _tmaze(name: str, description: str, flags: dict[str, str], **bounds: float) -> Task:
    return Task(name, description, "sf_examples.train_tmaze", "memory_tmaze", flags, (1, 2, 3), **bounds)


def _maze(name: str, description: str, flags: dict[str, str]) -> Task:
    """Evaluated in random mazes: random actions earn 0.1, the shortest ways 0.88; 3 of 100 mazes have none."""
    return Task(name, description, "sf_examples.ued.train_maze", "maze_with_levels", _MAZE | flags, (1, 2, 3), 0.65)


_ALL = (
    _cartpole("async", {"async_rl": "True"}),
    _cartpole("sync", {"async_rl": "False"}),
    _cartpole("serial", {"async_rl": "False", "serial_mode": "True"}),
    _gym("acrobot", "Acrobot-v1", "Acrobot-v1", _ACROBOT, 3, -95.0, is_compared=True),
    _gym("pendulum", "Pendulum-v1, continuous actions", "Pendulum-v1", _PENDULUM, 3, -250.0, is_compared=True),
    _tmaze("tmaze_gru", "T-maze with a GRU", {"rnn_type": "gru"}, at_least=0.9),
    _tmaze("tmaze_lstm", "T-maze with an LSTM", {"rnn_type": "lstm"}, at_least=0.9),
    # A memoryless policy is right half of the time: mean 0, standard deviation 0.1 over 100 episodes.
    _tmaze("tmaze_no_rnn", "T-maze without memory: must fail", {"use_rnn": "False"}, at_most=0.4),
    Task(
        "two_agents",
        "Two agents that must act alike, inactive from time to time",
        "sf_examples.train_custom_multi_env",
        "my_custom_multi_env_v1",
        # Observations tell environments apart, and a new one is evaluated: many of them teach one rule for all.
        {
            "device": "cpu",
            "num_workers": "2",
            "num_envs_per_worker": "64",
            "use_rnn": "False",
            "rollout": "16",
            "batch_size": "1024",
            "learning_rate": "0.001",
            "exploration_loss_coeff": "0.001",
            "gamma": "0.9",
            "train_for_env_steps": "500000",
        },
        (1, 2, 3),
        at_least=-0.2,
    ),
    _maze("maze_plr", "Random 5x5 mazes, robust replay of levels", {"curriculum": "plr"}),
    _maze("maze_accel", "Random 5x5 mazes, replay and edits of levels", {"curriculum": "accel"}),
)

TASKS: dict[str, Task] = {task.name: task for task in _ALL}
