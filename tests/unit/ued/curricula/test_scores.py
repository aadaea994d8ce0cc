"""Scores of levels: known numbers, a slow reference, and what must hold for any rollout."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from sample_factory.ued.curricula.episodes import FinishedEpisodes, recent_return
from sample_factory.ued.curricula.scores import (
    REGRET_SCORES,
    STUDENT_SCORES,
    TEACHER_SCORES,
    ScoredRollout,
    population_scores,
    student_scores,
)

INF = math.inf
ADVANTAGES = [
    [0.406304, 0.5532, 0.76, 0.105473, 0.143712, 0.1996, 0.28, 0.03],
    [-0.086223, -0.116977, -0.156912, -0.2096, -0.28, 0.164544, 0.2452, 0.36],
    [-0.071634, -0.082825, -0.09559, -0.110542, -0.12853, -0.150736, -0.1788, -0.215],
    [-0.036059, -0.019527, 0.006213, 0.04474, 0.101028, 0.181984, 0.2972, 0.46],
]


def groups(num_levels: int, copies: int) -> Tensor:
    return torch.arange(num_levels).repeat_interleave(copies)


def protagonist(copies: int = 1) -> ScoredRollout:
    """Eight steps of four environments; the third never finishes an episode."""
    rewards, dones = torch.zeros(8, 4), torch.zeros(8, 4, dtype=torch.bool)
    for env, step, reward in [(0, 2, 0.9), (0, 6, 0.5), (1, 4, 0.0), (1, 7, 0.7), (3, 7, 1.0)]:
        rewards[step, env] = reward
        dones[step, env] = True
    values = 0.1 * torch.arange(1, 5)[None, :] + 0.02 * torch.arange(8)[:, None]
    advantages = torch.tensor(ADVANTAGES).T.contiguous()
    return ScoredRollout(
        rewards, dones, values[..., None], advantages[..., None], groups(4 // copies, copies), 4 // copies
    )


def antagonist(copies: int = 1) -> ScoredRollout:
    """Rewards and ends of the protagonist in reverse order of environments, rewards halved."""
    first = protagonist(copies)
    return ScoredRollout(
        0.5 * first.rewards.flip(1), first.dones.flip(1), first.values, first.advantages, first.group, first.num_groups
    )


@pytest.mark.parametrize(
    ("name", "copies", "expected"),
    [
        ("return", 1, [0.7, 0.35, -INF, 1.0]),
        ("return", 2, [0.525, 1.0]),
        ("neg_return", 1, [-0.7, -0.35, -INF, -1.0]),
        ("neg_return", 2, [-0.525, -1.0]),
        ("l1_value_loss", 1, [0.377682, 0.213262, -INF, 0.143344]),
        ("l1_value_loss", 2, [0.295472, 0.143344]),
        ("positive_value_loss", 1, [0.377682, 0.128291, -INF, 0.136396]),
        ("positive_value_loss", 2, [0.252986, 0.136396]),
        ("max_mc", 1, [0.745, 0.42, -INF, 0.53]),
        ("max_mc", 2, [0.6825, 0.53]),
    ],
)
def test_known_scores_of_a_student(name: str, copies: int, expected: list[float]) -> None:
    scores = student_scores(name, protagonist(copies)).scores
    torch.testing.assert_close(scores, torch.tensor(expected), rtol=0, atol=2e-6)


def test_max_mc_remembers_the_best_return_of_earlier_visits() -> None:
    result = student_scores("max_mc", protagonist(), torch.tensor([0.8, 0.8, 0.8, 0.8]))
    torch.testing.assert_close(result.scores, torch.tensor([0.745, 0.52, -INF, 0.53]))
    torch.testing.assert_close(result.max_returns, torch.tensor([0.9, 0.8, 0.8, 1.0]))


def test_copies_of_a_level_share_its_best_return_of_earlier_visits() -> None:
    result = student_scores("max_mc", protagonist(2), torch.tensor([0.8, 0.8]))
    torch.testing.assert_close(result.scores, torch.tensor([0.6825, 0.53]))
    torch.testing.assert_close(result.max_returns, torch.tensor([0.9, 1.0]))


def test_best_returns_without_earlier_visits() -> None:
    torch.testing.assert_close(student_scores("max_mc", protagonist()).max_returns, torch.tensor([0.9, 0.7, 0.0, 1.0]))
    torch.testing.assert_close(student_scores("max_mc", protagonist(2)).max_returns, torch.tensor([0.9, 1.0]))


@pytest.mark.parametrize(
    ("name", "copies", "expected"),
    [
        ("relative_regret", 1, [0.0, 0.0, 0.35, 0.0]),
        ("relative_regret", 2, [0.0, 0.0]),
        ("mean_relative_regret", 1, [0.0, 0.0, 0.175, 0.0]),
        ("mean_relative_regret", 2, [0.0, 0.0]),
        ("population_regret", 1, [0.3, 0.525, 0.2625, 0.325]),
        ("population_regret", 2, [0.3875, 0.36875]),
        ("neg_return", 1, [-0.6, -0.175, -0.0875, -0.675]),
        ("neg_return", 2, [-0.5125, -0.63125]),
        ("positive_value_loss", 1, [0.343734, 0.064145, 0.0, 0.107775]),
        ("positive_value_loss", 2, [0.281386, 0.087987]),
    ],
)
def test_known_scores_of_a_population(name: str, copies: int, expected: list[float]) -> None:
    scores = population_scores(name, [protagonist(copies), antagonist(copies)])
    torch.testing.assert_close(scores, torch.tensor(expected), rtol=0, atol=2e-6)


def random_rollout(seed: int, num_groups: int = 4, heads: int = 3) -> ScoredRollout:
    generator = torch.Generator().manual_seed(seed)
    steps, envs = 40, 10
    rewards = torch.rand(steps, envs, generator=generator) - 0.3
    dones = torch.rand(steps, envs, generator=generator) < 0.15
    dones[:, 0] = False
    values = torch.randn(steps, envs, heads, generator=generator)
    advantages = torch.randn(steps, envs, heads, generator=generator)
    group = torch.randint(num_groups, [envs], generator=generator)
    return ScoredRollout(rewards, dones, values, advantages, group, num_groups)


def reference_score(name: str, rollout: ScoredRollout, previous: list[float]) -> list[float]:
    """Word for word: episode by episode, level by level."""
    result = []
    for group in range(rollout.num_groups):
        episodes: list[list[tuple[int, int]]] = []
        for env in (rollout.group == group).nonzero().flatten().tolist():
            steps: list[tuple[int, int]] = []
            for t in range(len(rollout.rewards)):
                steps.append((t, env))
                if rollout.dones[t, env]:
                    episodes.append(steps)
                    steps = []
        if not episodes:
            result.append(-INF)
            continue
        returns = [sum(float(rollout.rewards[s]) for s in steps) for steps in episodes]
        best = max(0.0, previous[group], *returns)
        signals: dict[str, Any] = {
            "l1_value_loss": lambda s: abs(float(rollout.advantages[s][0])),
            "positive_value_loss": lambda s: max(float(rollout.advantages[s][0]), 0.0),
            "max_mc": lambda s, best=best: best - float(rollout.values[s][0]),
            "value_disagreement": lambda s: float(rollout.values[s].double().std(correction=0)),
        }
        if name in signals:
            result.append(sum(sum(map(signals[name], e)) / len(e) for e in episodes) / len(episodes))
        else:
            sign = -1.0 if name == "neg_return" else 1.0
            result.append(sign * sum(returns) / len(returns))
    return result


@pytest.mark.parametrize("name", STUDENT_SCORES)
@pytest.mark.parametrize("seed", [0, 1])
def test_scores_agree_with_a_loop_over_episodes(name: str, seed: int) -> None:
    rollout = random_rollout(seed)
    previous = [0.5, -INF, 3.0, -INF]
    scores = student_scores(name, rollout, torch.tensor(previous)).scores
    torch.testing.assert_close(scores, torch.tensor(reference_score(name, rollout, previous)), rtol=1e-5, atol=1e-5)


def returns_by_group(rollout: ScoredRollout) -> list[list[float]]:
    """Of finished episodes, step by step."""
    result: list[list[float]] = [[] for _ in range(rollout.num_groups)]
    for env, group in enumerate(rollout.group.tolist()):
        total = 0.0
        for t in range(len(rollout.rewards)):
            total += float(rollout.rewards[t, env])
            if rollout.dones[t, env]:
                result[group].append(total)
                total = 0.0
    return result


def reference_regret(name: str, rollouts: list[ScoredRollout]) -> list[float]:
    """Word for word, level by level."""
    regrets = []
    for returns in zip(*map(returns_by_group, rollouts), strict=True):
        means = [sum(r) / max(len(r), 1) for r in returns]
        bests = [max([0.0, *r]) for r in returns]
        if name == "population_regret":
            regrets.append(max(bests) - sum(means) / len(means))
        else:
            regrets.append(max(0.0, (bests if name == "relative_regret" else means)[1] - means[0]))
    return regrets


@pytest.mark.parametrize("name", REGRET_SCORES)
@pytest.mark.parametrize("seed", range(3))
def test_regrets_agree_with_a_loop_over_episodes(name: str, seed: int) -> None:
    rollouts = [random_rollout(10 * seed + i) for i in range(3 if name == "population_regret" else 2)]
    rollouts = [replace(rollout, group=rollouts[0].group) for rollout in rollouts]
    rollouts[1].rewards.add_(0.1)  # or there would be no regret on many levels
    rollouts[1].dones[:, rollouts[0].group == 2] = False  # a level whose antagonist never finishes an episode
    expected = reference_regret(name, rollouts)
    assert sum(regret > 0 for regret in expected) > 0
    torch.testing.assert_close(population_scores(name, rollouts), torch.tensor(expected), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", STUDENT_SCORES)
def test_the_unfinished_tail_of_a_rollout_does_not_count(name: str) -> None:
    rollout = random_rollout(2)
    after = rollout.dones.flip(0).cumsum(0).flip(0) == 0
    changed = ScoredRollout(
        torch.where(after, 9.0, rollout.rewards),
        rollout.dones,
        torch.where(after[..., None], 9.0, rollout.values),
        torch.where(after[..., None], 9.0, rollout.advantages),
        rollout.group,
        rollout.num_groups,
    )
    torch.testing.assert_close(student_scores(name, changed).scores, student_scores(name, rollout).scores)


@pytest.mark.parametrize("name", STUDENT_SCORES)
def test_the_order_of_environments_does_not_matter(name: str) -> None:
    rollout = random_rollout(3)
    order = torch.randperm(10, generator=torch.Generator().manual_seed(0))
    shuffled = ScoredRollout(
        rollout.rewards[:, order],
        rollout.dones[:, order],
        rollout.values[:, order],
        rollout.advantages[:, order],
        rollout.group[order],
        rollout.num_groups,
    )
    torch.testing.assert_close(student_scores(name, shuffled).scores, student_scores(name, rollout).scores)


@pytest.mark.parametrize("name", ["relative_regret", "mean_relative_regret", "population_regret"])
def test_a_population_of_equals_has_no_mean_regret_and_never_a_negative_one(name: str) -> None:
    rollout = random_rollout(4)
    scores = population_scores(name, [rollout, rollout])
    assert (scores >= -1e-7).all()
    if name == "mean_relative_regret":
        assert (scores == 0).all()


def test_population_regret_takes_any_number_of_students() -> None:
    one, two, three = (random_rollout(5), random_rollout(5), random_rollout(5))
    torch.testing.assert_close(
        population_scores("population_regret", [one, two, three]), population_scores("population_regret", [one])
    )


@pytest.mark.parametrize("name", ["relative_regret", "mean_relative_regret"])
@pytest.mark.parametrize("count", [1, 3])
def test_pair_scores_need_two_students(name: str, count: int) -> None:
    with pytest.raises(ValueError, match="exactly two students"):
        population_scores(name, [random_rollout(0)] * count)


def test_which_scores_serve_which_purpose() -> None:
    assert "max_mc" not in TEACHER_SCORES
    assert set(REGRET_SCORES).isdisjoint(STUDENT_SCORES)
    with pytest.raises(ValueError, match="relative_regret"):
        student_scores("relative_regret", protagonist())
    with pytest.raises(ValueError, match="max_mc"):
        population_scores("max_mc", [protagonist()])
    with pytest.raises(ValueError, match="student_value_ensemble_size"):
        student_scores("value_disagreement", protagonist())


def test_shapes_are_checked() -> None:
    rollout = protagonist()
    with pytest.raises(ValueError, match="dones"):
        ScoredRollout(rollout.rewards, rollout.dones[1:], rollout.values, rollout.advantages, rollout.group, 4)
    with pytest.raises(ValueError, match="values"):
        ScoredRollout(rollout.rewards, rollout.dones, rollout.values[..., 0], rollout.advantages, rollout.group, 4)


def test_recent_return_averages_the_last_ten_episodes_of_every_environment() -> None:
    rewards = torch.arange(15.0)[:, None].repeat(1, 3)
    dones = torch.ones(15, 3, dtype=torch.bool)
    dones[:, 1] = False  # nothing finished: counts as 0
    dones[:, 2] = False
    dones[4, 2] = dones[14, 2] = True  # two episodes
    expected = (sum(range(5, 15)) / 10 + 0 + sum(range(15)) / 2) / 3
    assert recent_return(rewards, FinishedEpisodes.of(dones)) == pytest.approx(expected)


def test_no_episode_at_all() -> None:
    episodes = FinishedEpisodes.of(torch.zeros(5, 2, dtype=torch.bool))
    assert recent_return(torch.ones(5, 2), episodes) == 0.0
    assert episodes.lengths.tolist() == []
