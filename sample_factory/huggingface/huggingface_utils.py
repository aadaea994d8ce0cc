"""Sharing experiments on the Hugging Face Hub: model card, replay video, upload, download."""

from __future__ import annotations

import os
from collections.abc import Sequence
from os.path import join
from pathlib import Path
from typing import Any

import numpy as np

from sample_factory.cfg.experiment_path import experiment_problems
from sample_factory.huggingface.videos import to_rgb_frames, write_mp4
from sample_factory.utils.gifs import encode_gif
from sample_factory.utils.paths import ensure_dir_exists
from sample_factory.utils.typing import Config
from sample_factory.utils.utils import log

MIN_FRAME_SIZE = 180
DEFAULT_VIDEO_NAME = "replay.mp4"
LIBRARY_NAME = "sample-factory"
TAGS = ("deep-reinforcement-learning", "reinforcement-learning", "sample-factory")

_CARD_TEXT = """
A(n) **{algo}** model trained on the **{env}** environment.

This model was trained using Sample Factory: https://github.com/alex-petrenko/sample-factory.
Documentation for how to use Sample Factory can be found at https://www.samplefactory.dev/


## Downloading the model

After installing Sample Factory, download the model with:
```
python -m sample_factory.huggingface.load_from_hub -r {repo_id}
```


## Using the model

To run the model after download, use the `enjoy` script corresponding to this environment:
```
python -m {enjoy_name} --algo={algo} --env={env} --train_dir=./train_dir --experiment={experiment}
```


You can also upload models to the Hugging Face Hub using the same script with the `--push_to_hub` flag.
See https://www.samplefactory.dev/10-huggingface/huggingface/ for more details


## Training with this model

To continue training with this model, use the `train` script corresponding to this environment:
```
python -m {train_name} --algo={algo} --env={env} --train_dir=./train_dir --experiment={experiment} \
--restart_behavior=resume --train_for_env_steps=10000000000
```

Note, you may have to adjust `--train_for_env_steps` to a suitably high number as the experiment will resume at the
number of steps it concluded at.
"""


def generate_replay_video(dir_path: str, frames: Sequence[Any], fps: float, cfg: Config) -> str:
    """Write frames to `<dir_path>/<cfg.video_name or replay.mp4>` and return the path.

    Frames are uint8 [H, W, C] or [C, H, W]; small ones are enlarged to at least 180 pixels. A name ending in `.gif`
    makes an animated GIF. RuntimeError if no encoder is installed or encoding fails.
    """
    name = getattr(cfg, "video_name", None) or DEFAULT_VIDEO_NAME
    if not name.endswith((".mp4", ".gif")):
        name += ".mp4"
    path = join(ensure_dir_exists(dir_path), name)
    images = to_rgb_frames(frames, MIN_FRAME_SIZE)
    if name.endswith(".gif"):
        Path(path).write_bytes(encode_gif(images, fps))
    else:
        write_mp4(path, images, fps)
    log.info("Replay video saved to %s", path)
    return path


def generate_model_card(
    dir_path: str,
    algo: str,
    env: str,
    repo_id: str,
    rewards: Sequence[float] | None = None,
    enjoy_name: str | None = None,
    train_name: str | None = None,
) -> None:
    """Write `<dir_path>/README.md`: usage, metadata and, with episode `rewards`, their mean and deviation."""
    hub = import_hub()
    results = None
    if rewards is not None and len(rewards) > 0:
        results = [
            hub.EvalResult(
                task_type="reinforcement-learning",
                task_name="reinforcement-learning",
                dataset_type=env,
                dataset_name=env,
                metric_type="mean_reward",
                metric_name="mean_reward",
                metric_value=f"{np.mean(rewards):.2f} +/- {np.std(rewards):.2f}",
                verified=False,
            )
        ]
    metadata = hub.ModelCardData(
        library_name=LIBRARY_NAME,
        tags=list(TAGS),
        model_name=algo if results else None,
        eval_results=results,
    )
    text = _CARD_TEXT.format(
        algo=algo,
        env=env,
        repo_id=repo_id,
        experiment=_repo_name(repo_id),
        enjoy_name=enjoy_name or "<path.to.enjoy.module>",
        train_name=train_name or "<path.to.train.module>",
    )
    card = hub.ModelCard(f"---\n{metadata.to_yaml()}\n---\n{text}")
    card.save(join(ensure_dir_exists(dir_path), "README.md"))


def push_to_hf(dir_path: str, repo_name: str) -> None:
    """Upload the experiment folder to the public repository `repo_name` ("user/name"), created when absent."""
    if not repo_name:
        raise ValueError("--hf_repository is missing: give the name of the repository, for example user/my_experiment")
    api = import_hub().HfApi()
    repo_url = api.create_repo(repo_id=repo_name, private=False, exist_ok=True)
    api.upload_folder(
        repo_id=repo_name,
        folder_path=dir_path,
        path_in_repo=".",
        ignore_patterns=[".git/*"],
        commit_message="Upload folder using Sample Factory",
    )
    log.info("The model has been pushed to %s", repo_url)


def load_from_hf(dir_path: str, repo_id: str) -> str:
    """Download the repository to `<dir_path>/<repository name>` and return that folder."""
    if not repo_id:
        raise ValueError("--hf_repository is missing: give the name of the repository, for example user/my_experiment")
    problems = experiment_problems(dir_path, _repo_name(repo_id))
    if problems:
        raise ValueError(f"--hf_repository={repo_id}: {problems[0]}")
    local_dir = join(dir_path, _repo_name(repo_id))
    import_hub().snapshot_download(repo_id=repo_id, local_dir=local_dir)
    log.info("The repository %s has been downloaded to %s", repo_id, os.path.abspath(local_dir))
    return local_dir


def import_hub() -> Any:
    """The optional package huggingface_hub; ImportError that names the repair if it is missing."""
    try:
        import huggingface_hub
    except ImportError as exc:
        raise ImportError(
            "The Hugging Face Hub needs the package huggingface_hub: pip install huggingface_hub"
        ) from exc
    return huggingface_hub


def _repo_name(repo_id: str | None) -> str:
    return (repo_id or "").split("/")[-1]
