"""What batched sampling stores per step: both recorders against a plain Python account of the same steps."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from sample_factory.algo.sampling.batched_recording import (
    CUT_OFF,
    HostRecorder,
    RecordingSettings,
    StepColumns,
    TorchRecorder,
    host_array,
    with_finite_numbers,
)
from sample_factory.algo.sampling.batched_stats import episode_infos
from sample_factory.algo.sampling.env_faults import BadObservationError

N, T, SCALE, CLIP, FRAMES = 6, 12, 0.5, 1.25, 4


def block() -> dict[str, Any]:
    return {
        "obs": {"obs": torch.zeros(N, T + 1, 3), "id": torch.zeros(N, T + 1, dtype=torch.uint8)},
        "actions": torch.zeros(N, T, 1),
        "rewards": torch.zeros(N, T),
        "dones": torch.zeros(N, T, dtype=torch.bool),
        "time_outs": torch.zeros(N, T, dtype=torch.bool),
        "rnn_states": torch.ones(N, T + 1, 2),
    }


def arrays(tensors: dict[str, Any]) -> dict[str, Any]:
    return {key: arrays(t) if isinstance(t, dict) else t.numpy() for key, t in tensors.items()}


def results(reward_dtype: torch.dtype, flag_dtype: torch.dtype, infos: Any) -> list[tuple[Any, ...]]:
    generator = torch.Generator().manual_seed(3)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    return [
        (
            {"obs": draw(N, 3).double(), "id": torch.full((N,), step)},
            (4 * draw(N)).to(reward_dtype),
            (draw(N) > 1).to(flag_dtype),
            (draw(N) > 1).to(flag_dtype),
            infos(step) if callable(infos) else infos,
        )
        for step in range(T)
    ]


def record_all(kind: str, steps: list[tuple[Any, ...]]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    settings = RecordingSettings(N, SCALE, CLIP, FRAMES)
    data = block()
    recorder: Any = HostRecorder(settings) if kind == "host" else TorchRecorder(settings, "cpu")
    view = arrays(data) if kind == "host" else data
    stats = [recorder.record(StepColumns(view, step), result) for step, result in enumerate(steps)]
    return data, [entry for entry in stats if entry is not None]


def reference_episodes(steps: list[tuple[Any, ...]]) -> list[tuple[float, int, float, float]]:
    episodes, current = [], [[] for _ in range(N)]
    for _, rewards, terminated, truncated, _ in steps:
        for agent in range(N):
            current[agent].append(float(rewards[agent]))
            if terminated[agent] or truncated[agent]:
                own, current[agent] = current[agent], []
                episodes.append((sum(own), len(own) * FRAMES, min(own), max(own)))
    return episodes


@pytest.mark.parametrize("kind", ["host", "torch"])
@pytest.mark.parametrize(
    ("reward_dtype", "flag_dtype"),
    [
        (torch.float32, torch.bool),
        (torch.float64, torch.bool),
        (torch.int64, torch.uint8),
        (torch.bfloat16, torch.bool),
    ],
)
def test_columns_and_episodes(kind: str, reward_dtype: torch.dtype, flag_dtype: torch.dtype) -> None:
    steps = results(reward_dtype, flag_dtype, {})
    data, stats = record_all(kind, steps)
    tolerance = {"rtol": 1e-2, "atol": 1e-2} if reward_dtype == torch.bfloat16 else {"rtol": 1e-6, "atol": 1e-6}
    for step, (obs, rewards, terminated, truncated, _) in enumerate(steps):
        torch.testing.assert_close(data["obs"]["obs"][:, step + 1], obs["obs"].float())
        assert (data["obs"]["id"][:, step + 1] == step).all()
        expected = (rewards.float() * SCALE).clamp(-CLIP, CLIP)
        torch.testing.assert_close(data["rewards"][:, step], expected, **tolerance)
        done = terminated.bool() | truncated.bool()
        assert data["dones"][:, step].tolist() == done.tolist()
        assert data["time_outs"][:, step].tolist() == truncated.bool().tolist()
        assert (data["rnn_states"][:, step + 1] == (~done).float()[:, None]).all()
    episodes = reference_episodes(steps)
    assert len(episodes) > N
    names = ("reward", "len", "min_raw_reward", "max_raw_reward")
    reported = [np.concatenate([entry[name] for entry in stats]) for name in names]
    np.testing.assert_allclose(np.stack(reported, axis=1), np.array(episodes), **tolerance)
    assert all(entry["true_objective"] is entry["reward"] for entry in stats)
    assert reported[1].dtype == np.int32


def test_numbers_are_found_in_infos_of_any_form(caplog: pytest.LogCaptureFixture) -> None:
    finished, rewards = np.array([0, 2]), np.array([5.0, 6.0])
    infos = {
        "true_objective": torch.tensor([1.0, 2.0, 3.0], requires_grad=True),
        "level": {"depth": np.array([7, 8, 9]), "seed": np.int64(4)},
        "temperature": torch.tensor([0.5]),
        "final_info": np.array([{"lives": 3}, None, {}], dtype=object),
        "name": "maze",
        "frames": np.zeros((2, 2)),
    }
    stats = episode_infos(infos, finished, rewards, num_agents=3)
    assert stats.pop("true_objective").tolist() == [1.0, 3.0]
    assert stats.pop("level/depth").tolist() == [7, 9]
    assert stats == {"level/seed": 4, "temperature": 0.5}
    assert "'frames' has shape (2, 2)" in caplog.text and "final_info" not in caplog.text
    per_agent = [{"episode_extra_stats": {"kills": kills, "deep": {"depth": 2 * kills}}} for kills in (1, 2, 3)]
    stats = episode_infos(per_agent, finished, rewards, num_agents=3)
    assert {name: values.tolist() for name, values in stats["episode_extra_stats"].items()} == {
        "kills": [1, 3],
        "depth": [2, 6],
    }
    assert episode_infos({}, finished, rewards, num_agents=3) == {"true_objective": rewards}


def test_infos_are_those_of_the_agents_that_finished() -> None:
    def as_dict(step: int) -> dict[str, Any]:
        return {"level": torch.arange(N) * 100 + step, "mean": torch.tensor(float(step))}

    def as_list(step: int) -> list[dict[str, Any]]:
        return [{"true_objective": agent * 100 + step} for agent in range(N)]

    for infos, name in ((as_dict, "level"), (as_list, "true_objective")):
        steps = results(torch.float32, torch.bool, infos)
        expected = [
            [agent * 100 + step for agent in range(N) if terminated[agent] or truncated[agent]]
            for step, (_, _, terminated, truncated, _) in enumerate(steps)
        ]
        for kind in ("host", "torch"):
            _, stats = record_all(kind, steps)
            assert [entry[name].tolist() for entry in stats] == [rows for rows in expected if rows]


@pytest.mark.parametrize("kind", ["host", "torch"])
@pytest.mark.parametrize("where", ["reward", "obs"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_not_finite_are_named(kind: str, where: str, value: float) -> None:
    rewards, obs = torch.zeros(N), {"obs": torch.zeros(N, 3), "id": torch.zeros(N)}
    (rewards if where == "reward" else obs["obs"][:, 1])[4] = value
    flags = torch.zeros(N, dtype=torch.bool)
    result = (obs, rewards, flags, flags, {})
    with pytest.raises(BadObservationError, match=f"{where}.*{value}.*not a finite number") as raised:
        record_all(kind, [result])
    assert raised.value.row == 4 and raised.value.key == (None if where == "reward" else "obs")
    data, _ = record_all(kind, [with_finite_numbers(result)])
    assert np.isfinite(np.asarray(data["rewards"][:, 0])).all() and np.isfinite(np.asarray(data["obs"]["obs"])).all()


@pytest.mark.parametrize("kind", ["host", "torch"])
def test_episodes_that_were_cut_off_are_not_reported(kind: str) -> None:
    obs = {"obs": torch.zeros(N, 3), "id": torch.zeros(N)}
    flags = torch.ones(N, dtype=torch.bool)
    data, reports = record_all(kind, [(obs, torch.ones(N), ~flags, flags, CUT_OFF)])
    assert not any(reports)
    assert np.asarray(data["dones"][:, 0]).all() and np.asarray(data["time_outs"][:, 0]).all()


def test_host_array_shares_memory_where_it_can() -> None:
    plain = torch.zeros(3)
    assert np.shares_memory(host_array(plain), plain.numpy())
    assert host_array(torch.ones(3, requires_grad=True)).tolist() == [1, 1, 1]
