"""Who plays whom: fixed in synchronous mode, random but repeatable otherwise."""

from __future__ import annotations

import itertools
from types import SimpleNamespace

import pytest

from sample_factory.algo.utils.agent_policy_mapping import AgentPolicyMapping
from sample_factory.utils.attr_dict import AttrDict


def mapping(num_agents=2, **changes) -> AgentPolicyMapping:
    defaults = dict(
        num_policies=4, num_workers=2, num_envs_per_worker=4, async_rl=True, seed=1, pbt_mix_policies_in_one_env=True
    )
    return AgentPolicyMapping(AttrDict(defaults, **changes), SimpleNamespace(num_agents=num_agents))


def episodes(policies: AgentPolicyMapping, num_episodes: int, num_agents=2) -> list[list[int]]:
    """Policies of all agents of environment 0, one list per episode."""
    return [[policies.get_policy_for_agent(agent, 0, 0) for agent in range(num_agents)] for _ in range(num_episodes)]


def test_synchronous_mode_deals_out_environments_in_turn():
    policies = mapping(async_rl=False)
    assert [policies.get_policy_for_agent(0, env, env) for env in range(8)] == [0, 1, 2, 3, 0, 1, 2, 3]


def test_synchronous_mode_refuses_an_uneven_share():
    with pytest.raises(ValueError, match="multiple of num_policies"):
        mapping(async_rl=False, num_policies=3)


def test_mixing_reaches_every_policy_and_every_pair():
    rounds = episodes(mapping(num_policies=2), 400)
    assert {tuple(r) for r in rounds} == {(0, 0), (0, 1), (1, 0), (1, 1)}


def test_q25_without_mixing_all_agents_of_an_environment_follow_one_policy():
    rounds = episodes(mapping(pbt_mix_policies_in_one_env=False), 200)
    assert all(len(set(r)) == 1 for r in rounds)
    assert len({r[0] for r in rounds}) == 4


def test_policies_are_kept_for_a_while():
    rounds = episodes(mapping(pbt_mix_policies_in_one_env=False), 100)[5:]
    changes = sum(a != b for a, b in itertools.pairwise(rounds))
    assert changes <= 100 / 10


def test_q13_the_seed_decides():
    first, again = episodes(mapping(), 50), episodes(mapping(), 50)
    assert first == again
    assert first != episodes(mapping(seed=2), 50)
