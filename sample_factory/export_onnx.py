"""Export of a trained policy as an ONNX graph: raw observations in, environment actions out.

Normalisation and action selection are part of the graph. Needs the `onnx` extra (onnx, onnxscript).
"""

from __future__ import annotations

import contextlib
import keyword
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import gymnasium as gym
import torch
from torch import Tensor, nn

from sample_factory.algo.evaluators.exportable_sampling import exportable_sample
from sample_factory.algo.evaluators.rollout_loop import ACTION_MASK_KEY
from sample_factory.algo.sampling.batched_sampling import preprocess_actions
from sample_factory.algo.utils.action_distributions import argmax_actions
from sample_factory.algo.utils.env_info import EnvInfo, extract_env_info
from sample_factory.algo.utils.make_env import BatchedVecEnv
from sample_factory.algo.utils.misc import ExperimentStatus
from sample_factory.algo.utils.rl_utils import prepare_and_normalize_obs
from sample_factory.algo.utils.tensor_dict import TensorDict
from sample_factory.cfg.arguments import load_from_checkpoint
from sample_factory.enjoy import load_state_dict, make_env
from sample_factory.envs.env_resolution import resolve_env
from sample_factory.model.actor_critic import ActorCritic, create_actor_critic
from sample_factory.model.model_utils import get_rnn_size
from sample_factory.utils.typing import Config, ObsSpace, StatusCode
from sample_factory.utils.utils import is_module_available

RNN_STATES = "rnn_states"
OUTPUT_ACTIONS = "output_actions"
OUTPUT_RNN_STATES = "output_rnn_states"
BATCH_AXIS = "batch_size"


class OnnxExporter(nn.Module):
    """A policy as a plain function of tensors.

    `forward(**obs)` takes raw observations [b, ...] by key (`action_mask` and, for recurrent policies,
    `rnn_states [b, rnn_size]` among them) and returns environment actions, for recurrent policies
    `(actions, new rnn_states)`. Actions: int32 ([b] for one discrete action) or float [b, n]; a list with one tensor
    per sub-space for mixed Tuple spaces.
    """

    def __init__(self, cfg: Config, env_info: EnvInfo, actor_critic: ActorCritic) -> None:
        super().__init__()
        self.cfg = cfg
        self.env_info = env_info
        self.actor_critic = actor_critic

    def forward(self, **obs: Tensor) -> Any:
        rnn_states = obs.pop(RNN_STATES, None)
        action_mask = obs.pop(ACTION_MASK_KEY, None)
        normalized_obs = prepare_and_normalize_obs(self.actor_critic, TensorDict(obs))
        if rnn_states is None:
            num_rows = next(iter(obs.values())).shape[0]
            rnn_states = torch.zeros(num_rows, get_rnn_size(self.cfg))  # feed-forward: carried through, not used

        head_output = self.actor_critic.forward_head(normalized_obs)
        core_output, new_rnn_states = self.actor_critic.forward_core(head_output, rnn_states)
        mask_args = {} if action_mask is None else {"action_mask": action_mask}
        self.actor_critic.forward_tail(core_output, values_only=False, sample_actions=False, **mask_args)
        distribution = self.actor_critic.action_distribution()
        actions = argmax_actions(distribution) if self.cfg.eval_deterministic else exportable_sample(distribution)
        if actions.ndim < 2:
            actions = actions.unsqueeze(-1)  # [b, num_actions]
        env_actions = preprocess_actions(self.env_info, actions, to_numpy=False)
        return (env_actions, new_rnn_states) if self.cfg.use_rnn else env_actions


def create_onnx_exporter(cfg: Config, env: BatchedVecEnv, enable_jit: bool = False) -> OnnxExporter:
    """The policy of `cfg` with its saved weights, on the CPU, in evaluation mode.

    Args:
        enable_jit: keep scripted modules scripted; exporters usually cannot trace through them.
    """
    device = torch.device("cpu")
    with contextlib.nullcontext() if enable_jit else _scripting_disabled():
        actor_critic = create_actor_critic(cfg, env.observation_space, env.action_space)
    actor_critic.eval()
    actor_critic.model_to_device(device)
    load_state_dict(cfg, actor_critic, device)
    return OnnxExporter(cfg, extract_env_info(env, cfg), actor_critic).eval()


@contextlib.contextmanager
def _scripting_disabled() -> Iterator[None]:
    """Leave modules as they are where a model asks to script them."""
    original = torch.jit.script
    torch.jit.script = lambda module, *args, **kwargs: module  # type: ignore[assignment]
    try:
        yield
    finally:
        torch.jit.script = original  # type: ignore[assignment]


def sample_space(space: gym.Space) -> Any:
    """A random element with tensors instead of arrays; a dict of them for Dict spaces."""
    if isinstance(space, gym.spaces.Dict):
        return {key: sample_space(subspace) for key, subspace in space.spaces.items()}
    return torch.as_tensor(space.sample())


def unsqueeze_args(args: Any) -> Any:
    """Add a batch dimension of one to every tensor of a (nested) dict."""
    if isinstance(args, dict):
        return {key: unsqueeze_args(value) for key, value in args.items()}
    return torch.as_tensor(args).unsqueeze(0)


def generate_args(space: ObsSpace, batch_size: int = 1) -> dict[str, Tensor]:
    """Random observations [batch_size, ...] by key; empty for spaces that are not Dict."""
    if not isinstance(space, gym.spaces.Dict):
        return {}
    rows = [unsqueeze_args(sample_space(space)) for _ in range(batch_size)]
    return {key: torch.cat([row[key] for row in rows]) for key in space.spaces}


def generate_rnn_states(cfg: Config) -> Tensor:
    """States of a policy at the start of an episode: zeros float32 [1, rnn_size]."""
    return torch.zeros(1, get_rnn_size(cfg), dtype=torch.float32)


def create_forward(original_forward: Callable[..., Any], arg_names: Sequence[str]) -> Callable[..., Any]:
    """`original_forward(**kwargs)` as a function with one explicit parameter per name, in this order.

    Names that cannot be parameters (observation keys may be any text) become `input_<position>`.
    """
    parameters = [_parameter_name(name, position) for position, name in enumerate(arg_names)]
    # Exporters read the signature and the code object, so a wrapper with *args or a forged signature will not do.
    listing = ", ".join(parameters)
    code = f"lambda {listing}: original_forward(**dict(zip(arg_names, ({listing},))))"
    return eval(code, {"original_forward": original_forward, "arg_names": tuple(arg_names)})


def patch_forward(model: nn.Module, input_names: Sequence[str]) -> None:
    """Give `model.forward` explicit parameters: exporters do not accept **kwargs."""
    model.forward = create_forward(model.forward, input_names)  # type: ignore[assignment]


def export_onnx(cfg: Config, f: str) -> StatusCode:
    """Write the policy of an experiment to the file `f`.

    The first axis of all tensors is dynamic (`batch_size`); recurrent policies have a fixed batch of one. Returns 0.
    Raises FileNotFoundError or RuntimeError if there is no such experiment or it has no checkpoint.
    """
    cfg = load_from_checkpoint(cfg)
    resolve_env(cfg)
    env = make_env(cfg)
    try:
        exporter = create_onnx_exporter(cfg, env)
        obs_space = env.observation_space
    finally:
        env.close()

    # A dynamic axis needs an example longer than one: size one is always taken for a constant.
    args = generate_args(obs_space, batch_size=1 if cfg.use_rnn else 2)
    if cfg.use_rnn:
        args[RNN_STATES] = generate_rnn_states(cfg)
    _write_graph(exporter, args, f, has_dynamic_batch=not cfg.use_rnn)
    return ExperimentStatus.SUCCESS


def _write_graph(exporter: OnnxExporter, args: dict[str, Tensor], f: str, has_dynamic_batch: bool) -> None:
    if not is_module_available("onnxscript"):
        raise RuntimeError('ONNX export needs the packages onnx and onnxscript: pip install "sample-factory[onnx]"')
    input_names = list(args)
    with torch.no_grad():
        output_names = _output_names(exporter, exporter(**args))
        patch_forward(exporter, input_names)
        dynamic_shapes = None
        if has_dynamic_batch:
            batch_axis = torch.export.Dim(BATCH_AXIS)
            dynamic_shapes = {_parameter_name(name, i): {0: batch_axis} for i, name in enumerate(input_names)}
        torch.onnx.export(
            exporter,
            tuple(args.values()),
            f,
            input_names=input_names,
            output_names=output_names,
            dynamic_shapes=dynamic_shapes,
            dynamo=True,
            external_data=False,
        )


def _output_names(exporter: OnnxExporter, outputs: Any) -> list[str]:
    actions = outputs[0] if exporter.cfg.use_rnn else outputs
    if isinstance(actions, (list, tuple)):
        names = [f"{OUTPUT_ACTIONS}_{i}" for i in range(len(actions))]
    else:
        names = [OUTPUT_ACTIONS]
    return names + [OUTPUT_RNN_STATES] if exporter.cfg.use_rnn else names


def _parameter_name(name: str, position: int) -> str:
    return name if name.isidentifier() and not keyword.iskeyword(name) else f"input_{position}"


if __name__ == "__main__":
    raise SystemExit(
        "Nothing was exported: this module is imported by scripts such as `python -m sf_examples.export_onnx_gym_env`"
    )
