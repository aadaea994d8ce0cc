from __future__ import annotations

import sys

import numpy as np
import pytest
import torch

from sample_factory.algo.evaluators import video
from sample_factory.algo.evaluators.video import (
    Viewer,
    choose_render_mode,
    is_display_available,
    render_frame,
    visualize_policy_inputs,
)
from sample_factory.utils.attr_dict import AttrDict


class CountingEnv:
    """Renders its own call number, always in the same buffer."""

    def __init__(self) -> None:
        self.num_renders = 0
        self.frame = np.zeros((2, 2, 3), dtype=np.uint8)

    def render(self) -> np.ndarray:
        self.num_renders += 1
        self.frame[:] = self.num_renders
        return self.frame


class BrokenEnv:
    def render(self) -> None:
        raise RuntimeError("no GL context")


def make_cfg(**overrides) -> AttrDict:
    return AttrDict(dict(no_render=False, save_video=False, video_frames=1e9, fps=0) | overrides)


def test_render_modes(monkeypatch):
    monkeypatch.setattr(video, "is_display_available", lambda: True)
    assert choose_render_mode(make_cfg()) == "human"
    assert choose_render_mode(make_cfg(save_video=True)) == "rgb_array"
    assert choose_render_mode(make_cfg(save_video=True, no_render=True)) == "rgb_array"
    assert choose_render_mode(make_cfg(no_render=True)) is None


def test_without_a_display_evaluation_goes_on_unseen_and_says_so(monkeypatch, caplog):
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "SDL_VIDEODRIVER"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sys, "platform", "linux")
    cfg = make_cfg()
    video.log.addHandler(caplog.handler)
    try:
        assert choose_render_mode(cfg) is None
    finally:
        video.log.removeHandler(caplog.handler)
    assert cfg.no_render
    assert [r.levelname for r in caplog.records] == ["WARNING"] and "DISPLAY" in caplog.text


@pytest.mark.parametrize("name", ["DISPLAY", "WAYLAND_DISPLAY", "SDL_VIDEODRIVER"])
def test_any_display_counts(monkeypatch, name):
    monkeypatch.setattr(sys, "platform", "linux")
    for other in ("DISPLAY", "WAYLAND_DISPLAY", "SDL_VIDEODRIVER"):
        monkeypatch.delenv(other, raising=False)
    monkeypatch.setenv(name, "dummy")
    assert is_display_available()


def test_video_frames_are_copies_up_to_the_limit():
    env, frames = CountingEnv(), []
    cfg = make_cfg(save_video=True, video_frames=3)
    for _ in range(5):
        render_frame(cfg, env, frames, num_episodes=0, last_render_start=0.0)
    assert [int(frame[0, 0, 0]) for frame in frames] == [1, 2, 3]


def test_negative_video_length_is_the_first_episode():
    env, frames = CountingEnv(), []
    cfg = make_cfg(save_video=True, video_frames=-1)
    for num_episodes in (0, 0, 1, 2):
        render_frame(cfg, env, frames, num_episodes, 0.0)
    assert len(frames) == 2


def test_frames_are_shown_at_the_requested_rate(monkeypatch):
    naps: list[float] = []
    monkeypatch.setattr(video.time, "sleep", naps.append)
    monkeypatch.setattr(video.time, "time", lambda: 100.0)
    env = CountingEnv()
    render_frame(make_cfg(fps=10), env, [], 0, last_render_start=99.98)
    render_frame(make_cfg(fps=10), env, [], 0, last_render_start=50.0)
    render_frame(make_cfg(fps=0), env, [], 0, last_render_start=99.98)
    assert naps == [pytest.approx(0.08), 0.0] and env.num_renders == 3


def test_no_render_touches_nothing():
    env = CountingEnv()
    assert render_frame(make_cfg(no_render=True), env, [], 0, 0.0) > 0
    assert env.num_renders == 0


def test_a_window_that_breaks_ends_rendering_once_a_video_that_breaks_is_an_error():
    cfg = make_cfg()
    viewer = Viewer(cfg, BrokenEnv(), dict)
    viewer.on_frame(0)
    assert cfg.no_render
    viewer.on_frame(0)

    with pytest.raises(RuntimeError, match="no GL context"):
        Viewer(make_cfg(save_video=True), BrokenEnv(), dict).on_frame(0)


def test_policy_inputs_without_an_image_need_no_window():
    visualize_policy_inputs({})
    visualize_policy_inputs({"obs": torch.zeros(1, 4)})


def test_policy_inputs_are_scaled_and_enlarged(monkeypatch):
    cv2 = pytest.importorskip("cv2")
    shown: list[tuple[str, np.ndarray]] = []
    monkeypatch.setattr(cv2, "imshow", lambda name, image: shown.append((name, image)))
    monkeypatch.setattr(cv2, "waitKey", lambda delay: -1)
    visualize_policy_inputs({"obs": torch.arange(2 * 3 * 4 * 5, dtype=torch.float32).reshape(2, 3, 4, 5) - 7})
    ((name, image),) = shown
    assert name == "policy inputs" and image.shape == (20, 25, 3)
    assert image.min() == 0.0 and image.max() == 1.0
