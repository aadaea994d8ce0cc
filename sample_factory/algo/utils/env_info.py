"""What the rest of the system needs to know about the environment, found out without creating it in the main process.

A simulator may occupy a GPU, leak threads or crash; the main process only ever sees the result of a short-lived probe.
"""

from __future__ import annotations

import dataclasses
import faulthandler
import hashlib
import multiprocessing.connection
import os
import pickle
import re
import signal
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from os.path import isfile, join
from pathlib import Path
from typing import Any, Protocol

from gymnasium import spaces

from sample_factory.algo.utils.action_distributions import calc_num_actions
from sample_factory.algo.utils.child_process import die_with_parent
from sample_factory.algo.utils.context import SampleFactoryContext, set_global_context, sf_global_context
from sample_factory.algo.utils.env_actions import check_action_space
from sample_factory.algo.utils.env_interfaces import get_default_reward_shaping
from sample_factory.algo.utils.env_layer import close_env, get_multiagent_info
from sample_factory.algo.utils.levels import LevelSpec, level_spec_of
from sample_factory.algo.utils.multiprocessing_utils import get_mp_ctx
from sample_factory.algo.utils.restricted_pickle import load_restricted, without_rng
from sample_factory.cfg.shadowing import flag_value
from sample_factory.utils.logging import console_level, log, set_console_level
from sample_factory.utils.paths import ensure_private_dir, private_cache_dir
from sample_factory.utils.processes import kill
from sample_factory.utils.typing import ActionSpace, Config, Env, ObsSpace

# To be incremented when the meaning of a field changes: old cache files are then ignored.
ENV_INFO_PROTOCOL_VERSION = 1

DEFAULT_STARTUP_TIMEOUT_SEC = 300.0
_EXIT_TIMEOUT_SEC = 5.0
_MAX_NAME_LENGTH = 100
_STACK_DUMP_TIMEOUT_SEC = 2.0
_STACK_DUMP_POLL_SEC = 0.05


class EnvProbeError(RuntimeError):
    """The environment could not be created in the probe process; the last line of the message is the cause."""


@dataclass
class EnvInfo:
    """Spaces and properties of ``cfg.env``. ``action_splits``: number of actions per sub-space of a Tuple."""

    obs_space: ObsSpace
    action_space: ActionSpace
    num_agents: int
    gpu_actions: bool
    gpu_observations: bool
    action_splits: list[int] | None
    all_discrete: bool | None
    frameskip: int
    reward_shaping_scheme: dict[str, Any] | None = None
    env_info_protocol_version: int | None = None
    # Of environments with levels, if a curriculum wants to know.
    level_spec: LevelSpec | None = None


def extract_env_info(env: Env, cfg: Config) -> EnvInfo:
    """:param env: environment in batched or non-batched form (see ``make_env``).
    :raises ValueError: the observation or action space is not supported.
    """
    obs_space, action_space = env.observation_space, env.action_space
    _check_obs_space(obs_space)
    check_action_space(action_space)
    action_splits, all_discrete = None, None
    if isinstance(action_space, spaces.Tuple):
        action_splits = [calc_num_actions(space) for space in action_space.spaces]
        all_discrete = all(isinstance(space, spaces.Discrete) for space in action_space.spaces)

    return EnvInfo(
        obs_space=obs_space,
        action_space=action_space,
        num_agents=get_multiagent_info(env)[1],
        gpu_actions=cfg.env_gpu_actions,
        gpu_observations=cfg.env_gpu_observations,
        action_splits=action_splits,
        all_discrete=all_discrete,
        frameskip=cfg.env_frameskip,
        reward_shaping_scheme=get_default_reward_shaping(env),
        env_info_protocol_version=ENV_INFO_PROTOCOL_VERSION,
        level_spec=level_spec_of(env) if has_curriculum(cfg) else None,
    )


def has_curriculum(cfg: Config) -> bool:
    """Whether levels are chosen by a curriculum; configurations of Sample Factory 2 do not have the flag."""
    return bool(flag_value(cfg, "curriculum") != "none")


def _check_obs_space(obs_space: ObsSpace) -> None:
    components = obs_space.spaces.items() if isinstance(obs_space, spaces.Dict) else [("obs", obs_space)]
    for key, space in components:
        if space.shape is None or isinstance(space, (spaces.Dict, spaces.Tuple)):
            raise ValueError(
                f"Observation {key!r} has the space {space}, which is not supported: use Box, Discrete, MultiDiscrete "
                "or MultiBinary components (gymnasium.wrappers.FlattenObservation converts nested spaces, "
                "FilterObservation leaves components out)"
            )


def check_env_info(env: Env, env_info: EnvInfo, cfg: Config) -> None:
    """Compare this environment with what the probe found; an outdated cache file is removed.

    :raises ValueError: they differ.
    """
    found = extract_env_info(env, cfg)
    if found == env_info:
        return
    differences = [
        f"{field.name}: expected {getattr(env_info, field.name)}, found {getattr(found, field.name)}"
        for field in dataclasses.fields(EnvInfo)
        if getattr(env_info, field.name) != getattr(found, field.name)
    ]
    for difference in differences:
        log.error("Env info mismatch: %s", difference)
    cache_filename = env_info_cache_filename(cfg)
    if isfile(cache_filename):
        log.error("Removing the outdated env info cache %s", cache_filename)
        os.remove(cache_filename)
    raise ValueError(
        f"Env info mismatch: {'; '.join(differences)}. Environments of one run must have equal spaces and properties "
        "(an outdated cache has been removed: start again)"
    )


def env_info_cache_filename(cfg: Config) -> str:
    """Where the info of this environment is cached: in a folder of this user. Creates nothing."""
    safe_name = re.sub(r"[^\w.-]", "_", cfg.env)[:_MAX_NAME_LENGTH]
    digest = hashlib.sha256(cfg.env.encode()).hexdigest()[:8]  # names that differ only in other characters
    return str(private_cache_dir() / f"env_info_{safe_name}_{digest}")


class ResultQueue(Protocol):
    def put(self, obj: Any) -> None: ...


def spawn_tmp_env_and_get_info(sf_context: SampleFactoryContext, res_queue: ResultQueue, cfg: Config) -> None:
    """Create the environment, put its :class:`EnvInfo` into the queue, close it. Runs in a process of its own."""
    set_global_context(sf_context)
    # lazy: the environment layer is above this one
    from sample_factory.algo.utils.make_env import make_env_func_batched, refuse_vector_env

    env = make_env_func_batched(cfg, env_config=None)
    if not cfg.batched_sampling:
        refuse_vector_env(env)  # here, not in every worker and each of its successors
    env_info = extract_env_info(env, cfg)
    log.debug("Env info: %s", env_info)
    res_queue.put(env_info)
    close_env(env)


def obtain_env_info_in_a_separate_process(cfg: Config) -> EnvInfo:
    """Environment info from the cache (if ``cfg.use_env_info_cache``) or from a probe process.

    :raises EnvProbeError: the environment raised (the child's traceback comes first), its process died, or it did not
        answer within ``cfg.startup_timeout`` seconds (default 300).
    """
    cache_filename = env_info_cache_filename(cfg)
    use_cache = cfg.use_env_info_cache and not has_curriculum(cfg)  # levels are not in the cache
    if use_cache and isfile(cache_filename):
        cached = _load_cached(cache_filename)
        if cached is not None:
            return cached

    env_info = _EnvProbe(cfg).run()
    if use_cache:
        _save_cache(cache_filename, env_info)
    return env_info


class _EnvProbe:
    """One probe process: start it, wait for its answer, its death or the time limit, and leave nothing behind."""

    def __init__(self, cfg: Config):
        self.env_name = cfg.env
        self.timeout_sec = float(flag_value(cfg, "startup_timeout") or DEFAULT_STARTUP_TIMEOUT_SEC)
        self._payload = _pickle_payload(cfg)

    def run(self) -> EnvInfo:
        mp_ctx = get_mp_ctx(serial=False)
        assert mp_ctx is not None
        receiver, sender = mp_ctx.Pipe(duplex=False)
        with tempfile.TemporaryDirectory(prefix="sf_env_probe_") as tmp_dir:
            stack_file = join(tmp_dir, "stack")
            process = mp_ctx.Process(  # type: ignore[attr-defined]
                target=_probe_main,
                args=(self._payload, sender, dict(os.environ), console_level(), stack_file),
                name="env_probe",
            )
            process.start()
            sender.close()  # or the death of the child would not close the pipe
            try:
                env_info = self._wait_for_answer(process, receiver, stack_file)
                process.join(_EXIT_TIMEOUT_SEC)
                return env_info
            finally:
                receiver.close()
                if process.is_alive():
                    kill(process.pid)  # with what the environment has started
                process.join()

    def _wait_for_answer(self, process: Any, receiver: Any, stack_file: str) -> EnvInfo:
        ready = multiprocessing.connection.wait([receiver, process.sentinel], timeout=self.timeout_sec)
        if not ready:
            raise EnvProbeError(
                f"The process that creates the environment was here:\n{_request_stack(process, stack_file)}\n"
                f"The environment {self.env_name!r} was not created within {self.timeout_sec:g} seconds "
                "(--startup_timeout)"
            )
        try:
            answer = receiver.recv() if receiver.poll() else None
        except EOFError:
            answer = None
        if answer is None:
            process.join(_EXIT_TIMEOUT_SEC)
            raise EnvProbeError(
                f"The process that creates the environment {self.env_name!r} died without a message "
                f"({_describe_exit(process.exitcode)})"
            )
        if isinstance(answer, _ProbeFailure):
            reason = answer.traceback_text.strip().splitlines()[-1]
            raise EnvProbeError(
                f"{answer.traceback_text}\nThe environment {self.env_name!r} could not be created: {reason}"
            )
        return answer


@dataclass(frozen=True)
class _ProbeFailure:
    traceback_text: str


class _PipeQueue:
    def __init__(self, connection: Any):
        self.put: Callable[[Any], None] = connection.send


def _pickle_payload(cfg: Config) -> bytes:
    try:
        return pickle.dumps((sf_global_context(), cfg))
    except Exception as exc:
        raise ValueError(
            f"Registered components cannot be sent to other processes ({exc!r}): register module-level functions, "
            "classes, functools.partial or bound methods of picklable objects instead of lambdas and local functions"
        ) from exc


def _probe_main(payload: bytes, sender: Any, environ: dict[str, str], console: int, stack_file: str) -> None:
    # A fork server keeps the environment variables it was started with.
    os.environ.clear()
    os.environ.update(environ)
    set_console_level(console)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the main process's business
    die_with_parent()
    with open(stack_file, "w") as stack_stream:
        if hasattr(faulthandler, "register"):
            faulthandler.register(signal.SIGUSR1, file=stack_stream, all_threads=True)
        try:
            # Unpickled here and not by multiprocessing: it imports user modules, which may raise or hang.
            sf_context, cfg = pickle.loads(payload)
            spawn_tmp_env_and_get_info(sf_context, _PipeQueue(sender), cfg)
        except BaseException:
            sender.send(_ProbeFailure(traceback.format_exc()))
        finally:
            if hasattr(faulthandler, "unregister"):
                faulthandler.unregister(signal.SIGUSR1)


def _request_stack(process: Any, stack_file: str) -> str:
    """Python stack of a stuck process, as far as it can be had."""
    if not hasattr(signal, "SIGUSR1") or not isfile(stack_file):
        return "(unknown)"
    os.kill(process.pid, signal.SIGUSR1)
    deadline = time.monotonic() + _STACK_DUMP_TIMEOUT_SEC
    text = ""
    while time.monotonic() < deadline and process.is_alive():
        process.join(_STACK_DUMP_POLL_SEC)
        previous, text = text, Path(stack_file).read_text()
        if text and text == previous:
            break
    return text or "(unknown)"


def _describe_exit(exit_code: int | None) -> str:
    if exit_code is None or exit_code >= 0:
        # Python reports an error of the main module itself, which every child imports again, on stderr only.
        hint = ", see its output above; scripts need an `if __name__ == '__main__':` guard" if exit_code == 1 else ""
        return f"exit code {exit_code}{hint}"
    name = signal.Signals(-exit_code).name
    hint = ", possibly out of memory" if name == "SIGKILL" else ""
    return f"killed by {name}{hint}"


def _load_cached(cache_filename: str) -> EnvInfo | None:
    try:
        ensure_private_dir(Path(cache_filename).parent)
        with open(cache_filename, "rb") as fobj:
            cached = load_restricted(fobj, extra_classes=[EnvInfo])
    except Exception as exc:
        log.warning("Ignoring the env info cache %s: %r", cache_filename, exc)
        return None
    if not isinstance(cached, EnvInfo) or cached.env_info_protocol_version != ENV_INFO_PROTOCOL_VERSION:
        log.info("Ignoring the env info cache %s of another version", cache_filename)
        return None
    log.debug("Loading env info from cache: %s", cache_filename)
    return cached


def _save_cache(cache_filename: str, env_info: EnvInfo) -> None:
    log.debug("Writing env info to cache: %s", cache_filename)
    temporary = f"{cache_filename}.{os.getpid()}"
    try:
        ensure_private_dir(Path(cache_filename).parent)
        with open(temporary, "wb") as fobj:
            pickle.dump(without_rng(env_info), fobj)
        os.replace(temporary, cache_filename)
    except OSError as exc:
        log.warning("Could not write the env info cache: %r", exc)
