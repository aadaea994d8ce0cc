"""Flags of the learners of student and teacher."""

from __future__ import annotations

from sample_factory.cfg.flags.flag import at_least, between, positive
from sample_factory.ued.config.flag import Group, UedFlag, flag, switch

_PAIRED = {"train_runner": ("paired",)}
_PPO = {"agent_rl_algo": ("ppo",)}


def _coefficients(agent: str) -> tuple[UedFlag, ...]:
    return (
        flag(f"{agent}_entropy_coef", float, 0.0, "Weight of the entropy bonus.", bounds=at_least(0)),
        flag(f"{agent}_value_loss_coef", float, 0.5, "Weight of the value loss.", bounds=at_least(0)),
        flag(f"{agent}_n_unroll_update", int, 1, "Accepted, without effect.", bounds=at_least(1)),
    )


def _ppo(agent: str) -> tuple[UedFlag, ...]:
    return (
        flag(f"{agent}_ppo_n_epochs", int, 5, "Epochs per update.", bounds=at_least(1)),
        flag(f"{agent}_ppo_n_minibatches", int, 1, "Minibatches per epoch.", bounds=at_least(1)),
        flag(f"{agent}_ppo_clip_eps", float, 0.2, "Clip range of ratios and values.", bounds=positive()),
        switch(f"{agent}_ppo_clip_value_loss", True, "Clipped squared value loss; otherwise a Huber loss."),
    )


def _gae_lambda(agent: str) -> UedFlag:
    return flag(f"{agent}_gae_lambda", float, 0.95, "Lambda of the advantages.", bounds=between(0, 1))


_TEACHER_SCHEDULE = (
    flag("teacher_discount", float, 0.995, "Discount factor of the teacher.", bounds=between(0, 1)),
    flag(
        "teacher_lr",
        float,
        None,
        "Learning rate of the teacher; none: that of the students.",
        value_optional=True,
        bounds=at_least(0),
    ),
    flag(
        "teacher_lr_final",
        float,
        None,
        "Learning rate of the teacher at the end of a linear schedule; none: that of the students.",
        value_optional=True,
        bounds=at_least(0),
    ),
    flag(
        "teacher_lr_anneal_steps",
        int,
        0,
        "Optimiser steps of the schedule; 0: constant.",
        value_optional=True,
        bounds=at_least(0),
    ),
)

RL_GROUPS = (
    Group("Student: learner", "student_rl_args", _coefficients("student"), prefix="student"),
    Group("Student: PPO", "student_rl_args", _ppo("student"), prefix="student_ppo", condition=_PPO),
    Group("Student: advantages", "train_runner_args", (_gae_lambda("student"),), prefix="student", condition=_PPO),
    Group("Teacher: learner", "teacher_rl_args", _coefficients("teacher"), prefix="teacher", condition=_PAIRED),
    Group("Teacher: learning rate", "train_runner_args", _TEACHER_SCHEDULE, condition=_PAIRED),
    Group("Teacher: PPO", "teacher_rl_args", _ppo("teacher"), prefix="teacher_ppo", condition={**_PAIRED, **_PPO}),
    Group("Teacher: advantages", "train_runner_args", (_gae_lambda("teacher"),), condition={**_PAIRED, **_PPO}),
)
