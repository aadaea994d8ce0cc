"""Watching an evaluation: render modes, machines without a display, frames of a video."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from sample_factory.utils.typing import Config, Env
from sample_factory.utils.utils import is_module_available, log

DEFAULT_VIDEO_FPS = 30
EPISODE_END_PAUSE_SEC = 0.05


def is_display_available() -> bool:
    """Whether a window can be opened. An explicit SDL video driver (for example `dummy`) counts as a display."""
    if not sys.platform.startswith("linux"):
        return True
    return any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY", "SDL_VIDEODRIVER"))


def choose_render_mode(cfg: Config) -> str | None:
    """Gymnasium render mode of this evaluation. Without a display rendering is switched off in `cfg`, aloud."""
    if cfg.save_video:
        return "rgb_array"
    if cfg.no_render:
        return None
    if not is_display_available():
        disable_rendering(cfg, "there is no display (DISPLAY is not set)")
        return None
    return "human"


def disable_rendering(cfg: Config, reason: str) -> None:
    log.warning("Evaluation goes on without rendering: %s. Use --save_video to record a video.", reason)
    cfg.no_render = True


def visualize_policy_inputs(normalized_obs: Mapping[str, Any]) -> None:
    """Show the image observation of agent 0 in a window "policy inputs", min-max scaled, five times enlarged.

    Observations without an image under the key `obs` show nothing. Needs OpenCV.
    """
    if "obs" not in normalized_obs or normalized_obs["obs"].ndim != 4:  # [A, C, H, W]
        return
    import cv2  # optional

    image = normalized_obs["obs"][0].detach().cpu().numpy().astype(np.float32).transpose(1, 2, 0)
    low, high = image.min(), image.max()
    image = (image - low) / max(high - low, 1e-8)
    if image.shape[-1] not in (1, 3):  # a stack of frames: show the newest
        image = image[..., -1:]
    height, width = image.shape[:2]
    cv2.imshow("policy inputs", cv2.resize(image, (width * 5, height * 5), interpolation=cv2.INTER_NEAREST))
    cv2.waitKey(delay=1)


def render_frame(
    cfg: Config, env: Env, video_frames: list[np.ndarray], num_episodes: int, last_render_start: float
) -> float:
    """Append a frame to the video (`save_video`) or show it, not earlier than 1/fps seconds after the last one.

    Returns the time at which this call started, for the next call. Does nothing with `no_render`.
    """
    render_start = time.time()
    if cfg.save_video:
        is_first_episode_only = cfg.video_frames < 0
        if (num_episodes == 0) if is_first_episode_only else (len(video_frames) < cfg.video_frames):
            frame = env.render()
            if frame is not None:
                video_frames.append(np.array(frame))  # a copy: environments may reuse their buffer
    elif not cfg.no_render:
        if cfg.fps > 0:
            time.sleep(max(0.0, last_render_start + 1.0 / cfg.fps - render_start))
            render_start = time.time()
        env.render()
    return render_start


class Viewer:
    """Shows or records an evaluation through the callbacks of the evaluation loop.

    A window that cannot be drawn ends the rendering, not the evaluation; a video that cannot be recorded is an error.
    """

    def __init__(self, cfg: Config, env: Env, policy_inputs: Callable[[], Mapping[str, Any]]) -> None:
        self.cfg = cfg
        self.env = env
        self.policy_inputs = policy_inputs
        self.video_frames: list[np.ndarray] = []
        self._last_render_start = time.time()
        self._shows_policy_inputs = is_module_available("cv2")

    def on_frame(self, num_episodes: int) -> None:
        try:
            self._last_render_start = render_frame(
                self.cfg, self.env, self.video_frames, num_episodes, self._last_render_start
            )
        except Exception as exc:
            if self.cfg.save_video:
                raise
            disable_rendering(self.cfg, f"drawing failed ({exc!r})")
        if self._is_window_open() and self._shows_policy_inputs:
            self._show_policy_inputs()

    def on_episode_end(self, num_episodes: int) -> None:
        """Show the last state for a moment."""
        self.on_frame(num_episodes)
        if self._is_window_open():
            time.sleep(EPISODE_END_PAUSE_SEC)

    def _is_window_open(self) -> bool:
        return not (self.cfg.no_render or self.cfg.save_video)

    def _show_policy_inputs(self) -> None:
        try:
            visualize_policy_inputs(self.policy_inputs())
        except Exception as exc:  # a headless build of OpenCV has no windows
            log.warning("Policy inputs are not shown: %r", exc)
            self._shows_policy_inputs = False
