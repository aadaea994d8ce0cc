"""From a configuration to everything that takes part in a run. Nothing is written to the disk here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Generator

from sample_factory.cfg.errors import ConfigError
from sample_factory.ued.config.lists import split_names
from sample_factory.ued.config.nested import Config
from sample_factory.ued.curricula.common import Agents, Curriculum
from sample_factory.ued.curricula.evaluation import Evaluator, make_test_env
from sample_factory.ued.curricula.factory import make_curriculum
from sample_factory.ued.curricula.plr import LevelReplay
from sample_factory.ued.envs.interfaces import TeacherEnv, UedEnv
from sample_factory.ued.envs.registration import (
    env_options,
    is_minimax_compat,
    make_teacher_env,
    make_ued_env,
    teacher_options,
)
from sample_factory.ued.models.actor_critic import ActorCritic
from sample_factory.ued.models.registration import (
    DEFAULT_STUDENT,
    DEFAULT_TEACHER,
    make_student_model,
    make_teacher_model,
)
from sample_factory.ued.ppo.agent import PPOAgent, PPOConfig
from sample_factory.ued.runs.ranks import Ranks

# Streams of random numbers of a run: every purpose and rank has its own, so that an evaluation more or less does not
# change the training.
_WEIGHTS, _TRAINING, _EVALUATION = range(3)


@dataclass(frozen=True)
class Parts:
    """What a run consists of."""

    curriculum: Curriculum[Any, Any]
    evaluator: Evaluator
    evaluation_generator: Generator


def device_of(config: Config, rank: int = 0) -> torch.device:
    """Device of one rank; ConfigError if this machine does not have it."""
    name = config.device
    if name == "cuda":
        name = f"cuda:{rank}"
    device = torch.device(name)
    if device.type == "cuda":
        count = torch.cuda.device_count()
        needed = config.n_devices if config.n_devices > 1 else (device.index or 0) + 1
        if count < needed:
            raise ConfigError(
                [
                    f"--device={config.device} with --n_devices={config.n_devices}: this machine has {count} GPUs that "
                    f"PyTorch can use; {_repair(config, count)}"
                ]
            )
    return device


def _repair(config: Config, num_gpus: int) -> str:
    if num_gpus == 0:
        return "take --device=cpu"
    return f"set --n_devices={num_gpus}" if config.n_devices > 1 else "take --device=cuda or --device=cpu"


def make_generator(config: Config, purpose: int, rank: int, device: torch.device) -> Generator:
    """Independent of the generators of other purposes, ranks and seeds."""
    # The CPU generator of torch uses 32 bits of its seed, so these have to be mixed from everything.
    mixed = np.random.SeedSequence([int(config.seed), purpose, rank]).generate_state(1)[0]
    return Generator(device=device).manual_seed(int(mixed))


def make_parts(config: Config, ranks: Ranks, device: torch.device) -> Parts:
    """Build environments, agents, curriculum and evaluation of this rank. ValueError for what does not fit together."""
    env = make_env(config, device)
    teacher_env = make_teacher(config, env) if config.train_runner == "paired" else None
    agents = make_agents(config, env, teacher_env, device)
    generator = make_generator(config, _TRAINING, ranks.rank, device)
    curriculum = make_curriculum(config, env, teacher_env, agents, generator)
    _connect(curriculum, ranks)
    return Parts(curriculum, make_evaluator(config, env), make_generator(config, _EVALUATION, ranks.rank, device))


def make_evaluator(config: Config, env: UedEnv[Any, Any]) -> Evaluator:
    """Evaluation during the training; without test environments it does nothing."""
    names = split_names(config.eval_args.env_names)
    envs = {name: check_students_can_act(env, name, make_test_env(name, config)) for name in names}
    return Evaluator(envs, config.eval_args.n_episodes, config.eval_args.agent_idxs)


def check_students_can_act(trained_in: UedEnv[Any, Any], name: str, env: UedEnv[Any, Any]) -> UedEnv[Any, Any]:
    """``env``; ValueError if networks made for ``trained_in`` do not fit it."""
    shapes = [(e.observation_spec.image, e.num_actions) for e in (trained_in, env)]
    if shapes[0] != shapes[1]:
        raise ValueError(
            f"students cannot act in {name}: it has images {shapes[1][0]} and {shapes[1][1]} actions, their training "
            f"environment {shapes[0][0]} and {shapes[0][1]}"
        )
    return env


def make_env(config: Config, device: torch.device) -> UedEnv[Any, Any]:
    """The student environment of the training."""
    options = _environment_options(config, config.env_args, env_options(config.env_name), device)
    return make_ued_env(config.env_name, **options)


def make_teacher(config: Config, env: UedEnv[Any, Any]) -> TeacherEnv[Any, Any]:
    """The environment of the teacher."""
    options = _environment_options(config, config.ued_env_args, teacher_options(config.env_name), None)
    return make_teacher_env(config.env_name, env, **options)


def _environment_options(
    config: Config, args: Config, accepted: dict[str, Any], device: torch.device | None
) -> dict[str, Any]:
    """Flags of the environment, with what it wants to know about the run."""
    options = dict(args)
    if "device" in accepted and device is not None:
        options["device"] = device
    if "compat" in accepted:
        options["compat"] = config.ued_compat
    return options


def make_agents(
    config: Config, env: UedEnv[Any, Any], teacher_env: TeacherEnv[Any, Any] | None, device: torch.device
) -> Agents:
    """Students, and a teacher where there is an environment for it. Equal on all ranks."""
    generator = make_generator(config, _WEIGHTS, 0, torch.device("cpu"))
    students = [
        PPOAgent(make_student(config, env, generator).to(device), student_ppo(config))
        for _ in range(config.train_runner_args.n_students)
    ]
    _check_student_minibatches(config, students[0].model)
    for student in students:
        student.model.cuda_graphs = config.cuda_graphs
    if teacher_env is None:
        return Agents(students)
    name = config.teacher_model_name
    options = _model_options(config, config.teacher_model_args, name == DEFAULT_TEACHER)
    with _naming_flags("teacher", options):
        model = make_teacher_model(name, teacher_env.observation_spec, teacher_env.num_actions, options, generator)
    _check_teacher_minibatches(config, model, teacher_env)
    model.cuda_graphs = config.cuda_graphs
    return Agents(students, PPOAgent(model.to(device), teacher_ppo(config)))


def make_student(config: Config, env: UedEnv[Any, Any], generator: Generator | None = None) -> ActorCritic:
    """One student network, on the CPU."""
    name = config.student_model_name
    options = _model_options(config, config.student_model_args, name == DEFAULT_STUDENT)
    with _naming_flags("student", options):
        return make_student_model(name, env.observation_spec, env.num_actions, options, generator)


@contextmanager
def _naming_flags(agent: str, options: Mapping[str, Any]) -> Iterator[None]:
    """Errors of networks begin with the option they are about, which is a flag without the agent."""
    try:
        yield
    except ValueError as exc:
        is_about_flag = str(exc).split("=", 1)[0] in options
        raise ValueError(f"--{agent}_{exc}" if is_about_flag else str(exc)) from exc


def _model_options(config: Config, args: Config, is_default: bool) -> dict[str, Any]:
    compat = {"constant_policy_init": True} if is_default and is_minimax_compat(config.ued_compat) else {}
    return {**args, **compat}


def student_ppo(config: Config) -> PPOConfig:
    """Settings of the students' learner. In minimax only students of a teacher follow their schedule."""
    args = config.train_runner_args
    ignores_schedule = is_minimax_compat(config.ued_compat) and config.train_runner != "paired"
    return PPOConfig(
        **_ppo(config.student_rl_args, config),
        discount=args.discount,
        gae_lambda=args.gae_lambda,
        lr=args.lr,
        lr_final=None if ignores_schedule else args.lr_final,
        lr_anneal_steps=0 if ignores_schedule else args.lr_anneal_steps or 0,
    )


def teacher_ppo(config: Config) -> PPOConfig:
    """Settings of the teacher's learner. In minimax its rate starts at that of the students, whatever is given."""
    args = config.train_runner_args
    return PPOConfig(
        **_ppo(config.teacher_rl_args, config),
        discount=args.teacher_discount,
        gae_lambda=args.teacher_gae_lambda,
        lr=args.lr if is_minimax_compat(config.ued_compat) else args.teacher_lr,
        lr_final=args.teacher_lr_final,
        lr_anneal_steps=args.teacher_lr_anneal_steps or 0,
    )


def _ppo(rl_args: Config, config: Config) -> dict[str, Any]:
    """What the flags of student and teacher call alike."""
    names = ("n_epochs", "n_minibatches", "clip_eps", "clip_value_loss", "value_loss_coef", "entropy_coef")
    runner = config.train_runner_args
    return {name: rl_args[name] for name in names} | {
        "max_grad_norm": runner.max_grad_norm,
        "adam_eps": runner.adam_eps,
    }


def _check_student_minibatches(config: Config, model: ActorCritic) -> None:
    """Flags tell only of the default network whether it is recurrent."""
    args = config.train_runner_args
    envs, count = args.n_parallel // config.n_devices * args.n_eval, config.student_rl_args.n_minibatches
    if model.is_recurrent and envs % count:
        raise ValueError(
            f"--student_ppo_n_minibatches={count} does not divide the {envs} environments of a device, as it has to "
            f"for the recurrent --student_model_name={config.student_model_name}; change it, --n_parallel or --n_eval"
        )


def _check_teacher_minibatches(config: Config, model: ActorCritic, teacher_env: TeacherEnv[Any, Any]) -> None:
    levels = config.train_runner_args.n_parallel // config.n_devices
    count = config.teacher_rl_args.n_minibatches
    items = levels if model.is_recurrent else levels * teacher_env.episode_length
    if items % count:
        raise ValueError(
            f"--teacher_ppo_n_minibatches={count} does not divide the {items} items of a teacher rollout; change it or "
            "--n_parallel"
        )


def _connect(curriculum: Curriculum[Any, Any], ranks: Ranks) -> None:
    """Let the agents of all ranks learn together."""
    if ranks.size == 1:
        return
    teacher = curriculum.agents.teacher
    for agent in [*curriculum.students, *([] if teacher is None else [teacher])]:
        agent.gradient_sync = ranks.average
    if isinstance(curriculum, LevelReplay):

        def agree_on_replay(wanted: list[bool], warm: list[bool]) -> list[bool]:
            by_main = [ranks.of_main(w) for w in wanted]
            all_warm = [ranks.all(w) for w in warm]
            return [a and b for a, b in zip(by_main, all_warm, strict=True)]

        curriculum.agree_on_replay = agree_on_replay
