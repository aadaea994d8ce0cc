"""Evaluation of a trained policy: from a script through :func:`enjoy`, or from the command line.

python -m sample_factory.enjoy --env=CartPole-v1 --experiment=my_run --train_dir=./train_dir
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import torch
from torch import Tensor

from sample_factory.algo.evaluators.episode_stats import EpisodeStats, EvaluationOutcome
from sample_factory.algo.evaluators.recorded_flags import add_recorded_args
from sample_factory.algo.evaluators.rollout_loop import EvaluationLoop, EvaluationPolicy, apply_eval_frameskip
from sample_factory.algo.evaluators.video import (
    DEFAULT_VIDEO_FPS,
    Viewer,
    choose_render_mode,
    disable_rendering,
    render_frame,
    visualize_policy_inputs,
)
from sample_factory.algo.learning.checkpoints import CheckpointError, trusting_files
from sample_factory.algo.learning.learner import Learner
from sample_factory.algo.utils.env_info import extract_env_info
from sample_factory.algo.utils.make_env import BatchedVecEnv, make_env_func_batched
from sample_factory.algo.utils.misc import ExperimentStatus
from sample_factory.cfg.arguments import load_from_checkpoint, parse_full_cfg, parse_sf_args
from sample_factory.cfg.persistence import require_saved_config
from sample_factory.cfg.shadowing import flag_value
from sample_factory.cfg.validation import ConfigError, check_cfg_before_evaluation, resolve_device
from sample_factory.envs.env_resolution import UnknownEnvError, resolve_env
from sample_factory.model.actor_critic import ActorCritic, create_actor_critic
from sample_factory.utils.attr_dict import AttrDict
from sample_factory.utils.typing import Config
from sample_factory.utils.utils import experiment_dir, log

__all__ = ["enjoy", "load_state_dict", "main", "make_env", "render_frame", "visualize_policy_inputs"]

USAGE_ERROR = 2


class MissingExperimentError(RuntimeError):
    """There is no experiment of this name."""


def make_env(cfg: Config, render_mode: str | None = None) -> BatchedVecEnv:
    """One environment in batched form: values are tensors with one row per agent."""
    env_config = AttrDict(worker_index=0, vector_index=0, env_id=0)
    return make_env_func_batched(cfg, env_config=env_config, render_mode=render_mode)


def load_state_dict(cfg: Config, actor_critic: ActorCritic, device: torch.device) -> None:
    """Load the weights of policy `cfg.policy_index` from its newest checkpoint of kind `cfg.load_checkpoint_kind`.

    Raises:
        CheckpointError (a RuntimeError): there is no such checkpoint, none can be read, or the weights do not fit.
    """
    prefix = {"latest": "checkpoint", "best": "best"}[cfg.load_checkpoint_kind]
    directory = Learner.checkpoint_dir(cfg, cfg.policy_index)
    with trusting_files(flag_value(cfg, "unsafe_load")):
        checkpoint = Learner.load_checkpoint(Learner.get_checkpoints(directory, f"{prefix}_*"), device)
    if checkpoint is None:
        raise CheckpointError(
            f"No checkpoint {prefix}_* of policy {cfg.policy_index} in {directory}. Check --experiment, --train_dir, "
            "--policy_index and --load_checkpoint_kind; training saves every --save_every_sec seconds and at its end."
        )
    try:
        actor_critic.load_state_dict(checkpoint["model"])
    except RuntimeError as exc:
        raise CheckpointError(
            f"The weights in {directory} do not fit the model: {exc}\nCheck that the model flags are those of the "
            "training and that custom model components are registered (--env_module can name the module that does it)."
        ) from exc


def enjoy(cfg: Config) -> EvaluationOutcome:
    """Evaluate the saved policy of `cfg.experiment` until `max_num_frames` or `max_num_episodes`.

    Returns:
        `(status, average_reward)`: the mean reward over all finished episodes of all agents, NaN if none finished.
        The pair is also the status as an integer, so that `sys.exit(enjoy(cfg))` ends with the right code.
    """
    cfg = load_from_checkpoint(cfg)
    stats = _evaluate(cfg)
    log.info("%s", _result_line(cfg, stats))
    return EvaluationOutcome(ExperimentStatus.SUCCESS, stats.average_reward)


def _evaluate(cfg: AttrDict) -> EpisodeStats:
    """Run the evaluation of a complete configuration; saves the video and pushes to the hub if asked to."""
    resolve_env(cfg)
    check_cfg_before_evaluation(cfg)
    cfg.train_dir = os.path.abspath(cfg.train_dir)  # environments may change the working folder
    if cfg.save_video and not (cfg.video_name or "").endswith(".gif"):  # GIFs need no encoder
        _require_video_encoder()
    render_action_repeat = apply_eval_frameskip(cfg)
    cfg.num_envs = 1
    device = torch.device("cuda" if resolve_device(cfg) == "gpu" else "cpu")
    env, obs = _open_env(cfg)
    try:
        actor_critic = create_actor_critic(cfg, env.observation_space, env.action_space)
        actor_critic.eval()
        actor_critic.model_to_device(device)
        load_state_dict(cfg, actor_critic, device)

        policy = EvaluationPolicy(cfg, extract_env_info(env, cfg), actor_critic, device)
        viewer = Viewer(cfg, env, lambda: policy.normalized_obs)
        loop = EvaluationLoop(cfg, env, policy, render_action_repeat, viewer.on_frame, viewer.on_episode_end)
        stats = loop.run(obs)
    finally:
        env.close()

    if not stats.rewards:
        log.warning("No episode finished within %d frames: the average reward is unknown (nan)", loop.num_frames)
    _publish(cfg, viewer, stats)
    return stats


def _require_video_encoder() -> None:
    """Better before the evaluation than after it."""
    from sample_factory.huggingface.videos import require_video_encoder  # lazy, like all of the hub's layer

    try:
        require_video_encoder()
    except RuntimeError as exc:
        raise ConfigError([f"--save_video: {exc}"]) from exc


def _open_env(cfg: AttrDict) -> tuple[BatchedVecEnv, dict[str, Tensor]]:
    """The environment and its first observation, without a window if none can be opened."""
    render_mode = choose_render_mode(cfg)
    try:
        return _reset_env(cfg, render_mode)
    except Exception as exc:
        if render_mode != "human":
            raise
        disable_rendering(cfg, f"no window could be opened ({exc!r})")
    return _reset_env(cfg, None)


def _reset_env(cfg: AttrDict, render_mode: str | None) -> tuple[BatchedVecEnv, dict[str, Tensor]]:
    env = make_env(cfg, render_mode)
    try:
        if hasattr(env.unwrapped, "reset_on_init"):
            env.unwrapped.reset_on_init = False
        # Unlike in training only a seed of this command counts: an evaluation is random unless asked otherwise.
        seed = (cfg.get("cli_args") or {}).get("seed")
        if seed is not None:
            torch.manual_seed(seed)
            env.seed(seed)
        return env, env.reset()[0]
    except BaseException:
        env.close()
        raise


def _publish(cfg: AttrDict, viewer: Viewer, stats: EpisodeStats) -> None:
    # Lazy: the hub is a layer of its own with optional dependencies.
    if cfg.save_video:
        from sample_factory.huggingface.huggingface_utils import generate_replay_video

        fps = cfg.fps if cfg.fps > 0 else DEFAULT_VIDEO_FPS
        generate_replay_video(experiment_dir(cfg), viewer.video_frames, fps, cfg)
    if cfg.push_to_hub:
        from sample_factory.huggingface.huggingface_utils import generate_model_card, push_to_hf

        generate_model_card(
            experiment_dir(cfg), cfg.algo, cfg.env, cfg.hf_repository, stats.scores, cfg.enjoy_script, cfg.train_script
        )
        push_to_hf(experiment_dir(cfg), cfg.hf_repository)


def _load_cfg(argv: Sequence[str] | None) -> AttrDict:
    """Configuration of the experiment with the command line on top; custom flags are known from the experiment."""
    parser, partial_cfg = parse_sf_args(argv, evaluation=True)
    if not partial_cfg.help:
        # First of all: without the experiment nobody knows its environment and its flags.
        add_recorded_args(parser, _saved_config(partial_cfg))
    cfg = parse_full_cfg(parser, argv)
    resolve_env(cfg)
    return load_from_checkpoint(cfg)


def _saved_config(cfg: Config) -> AttrDict:
    try:
        return require_saved_config(cfg)
    except FileNotFoundError as exc:
        raise MissingExperimentError(exc) from exc


def main(argv: Sequence[str] | None = None) -> int:
    """Evaluate any experiment from the command line; the last line printed is the result.

    Returns:
        0; 1 if there is nothing to evaluate (no experiment, no checkpoint); 2 for unknown flags or environments.
    """
    try:
        cfg = _load_cfg(argv)
        stats = _evaluate(cfg)
    except (UnknownEnvError, ConfigError) as exc:
        print(exc, file=sys.stderr)
        return USAGE_ERROR
    except (MissingExperimentError, CheckpointError) as exc:
        print(exc, file=sys.stderr)
        return ExperimentStatus.FAILURE
    print(_result_line(cfg, stats), flush=True)
    return ExperimentStatus.SUCCESS


def _result_line(cfg: AttrDict, stats: EpisodeStats) -> str:
    name = f"{cfg.env} (experiment {cfg.experiment}, policy {cfg.policy_index})"
    return f"Evaluated {name}: {len(stats.rewards)} episodes, average reward {stats.average_reward:.3f}"


if __name__ == "__main__":
    sys.exit(main())
