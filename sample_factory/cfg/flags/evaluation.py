"""Flags of evaluation scripts; training scripts do not have them."""

from __future__ import annotations

from sample_factory.cfg.flags.flag import Flag, Section, at_least, finite, str2bool

_PLAYBACK = (
    Flag(
        "fps",
        int,
        0,
        "Frames per second of rendering and of videos. 0: as fast as possible, videos 30.",
        bounds=at_least(0),
        quantity=True,
    ),
    Flag(
        "eval_env_frameskip",
        int,
        None,
        "Frameskip of the rendered environment. Must divide --env_frameskip: actions are repeated so that the policy "
        "acts as often as in training.",
        bounds=at_least(1),
        default_text="value of --env_frameskip",
    ),
    Flag("no_render", bool, False, "Do not show the environment.", action="store_true"),
    Flag("save_video", bool, False, "Save a video in the experiment folder.", action="store_true"),
    Flag(
        "video_frames",
        int,
        1_000_000_000,
        "Longest video in frames; negative: the first episode.",
        bounds=finite(),
        quantity=True,
    ),
    Flag("video_name", str, None, "File name of the video.", default_text="`replay.mp4`"),
    Flag(
        "max_num_frames",
        int,
        1_000_000_000,
        "Evaluate at most this many environment steps.",
        bounds=at_least(1),
        quantity=True,
    ),
    Flag(
        "max_num_episodes",
        int,
        1_000_000_000,
        "Evaluate at most this many episodes.",
        bounds=at_least(1),
        quantity=True,
    ),
)

_HUB = (
    Flag("push_to_hub", bool, False, "Upload the experiment to the Hugging Face Hub.", action="store_true"),
    Flag("hf_repository", str, None, "Repository on the Hugging Face Hub, as user/name."),
)

_POLICY = (
    Flag("policy_index", int, 0, "Which policy of the experiment to evaluate.", bounds=at_least(0)),
    Flag("eval_deterministic", str2bool, False, "Take the most probable action instead of a sampled one."),
)

_SCRIPTS = (
    Flag("train_script", str, None, "Module that trains this experiment, for the model card on the Hub."),
    Flag("enjoy_script", str, None, "Module that evaluates this experiment, for the model card on the Hub."),
)

_FAST = (
    Flag(
        "sample_env_episodes",
        int,
        256,
        "Episodes of each policy (on average, if there are several) that the fast, parallel evaluation collects.",
        bounds=at_least(1),
        quantity=True,
    ),
    Flag(
        "csv_folder_name",
        str,
        None,
        "Folder inside the experiment for the CSV files of the fast evaluation.",
        default_text="the experiment folder",
    ),
)

EVALUATION = Section("evaluation", "Evaluation", _PLAYBACK + _HUB + _POLICY + _SCRIPTS + _FAST)
