"""Registry of the functions that build the parts of a model.

This module is unpickled in every child process, also in those that never need torch, so it imports nothing of the
model package at module level; the defaults are looked up when they are first asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sample_factory.model.actor_critic import ActorCritic
    from sample_factory.model.core import ModelCore
    from sample_factory.model.decoder import Decoder
    from sample_factory.model.encoder import Encoder
    from sample_factory.utils.typing import ActionSpace, Config, ObsSpace

MakeActorCriticFunc = Callable[["Config", "ObsSpace", "ActionSpace"], "ActorCritic"]
MakeEncoderFunc = Callable[["Config", "ObsSpace"], "Encoder"]
MakeCoreFunc = Callable[["Config", int], "ModelCore"]
MakeDecoderFunc = Callable[["Config", int], "Decoder"]


class _Component:
    """An attribute that holds the registered builder, or else the default one at ``module:function``."""

    def __init__(self, module: str, function: str):
        self._module = module
        self._function = function
        self._key = function

    def __set_name__(self, owner: type, name: str) -> None:
        self._key = name

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        if instance is None:
            return self
        registered = instance._registered.get(self._key)
        return getattr(import_module(self._module), self._function) if registered is None else registered

    def __set__(self, instance: Any, builder: Callable[..., Any] | None) -> None:
        if builder is not None and not callable(builder):
            raise ValueError(f"{self._key} must be a class or a function, got {builder!r}")
        instance._registered[self._key] = builder


class ModelFactory:
    """Which function builds the actor-critic, encoder, core and decoder. Classes are functions too.

    Everything registered is pickled into the child processes, so it must be importable there.
    """

    make_actor_critic_func = _Component("sample_factory.model.actor_critic", "default_make_actor_critic_func")
    make_model_encoder_func = _Component("sample_factory.model.encoder", "default_make_encoder_func")
    make_model_core_func = _Component("sample_factory.model.core", "default_make_core_func")
    make_model_decoder_func = _Component("sample_factory.model.decoder", "default_make_decoder_func")

    def __init__(self) -> None:
        self._registered: dict[str, Callable[..., Any] | None] = {}

    @property
    def has_own_encoder(self) -> bool:
        """Observations go to an encoder that was registered, by itself or with the whole model."""
        return any(self._registered.get(key) for key in ("make_model_encoder_func", "make_actor_critic_func"))

    def register_actor_critic_factory(self, make_actor_critic_func: MakeActorCriticFunc) -> None:
        """Replace the whole model: ``f(cfg, obs_space, action_space) -> ActorCritic``."""
        self.make_actor_critic_func = make_actor_critic_func

    def register_encoder_factory(self, make_model_encoder_func: MakeEncoderFunc) -> None:
        """Replace the observation encoder: ``f(cfg, obs_space) -> Encoder``."""
        self.make_model_encoder_func = make_model_encoder_func

    def register_model_core_factory(self, make_model_core_func: MakeCoreFunc) -> None:
        """Replace the recurrent core: ``f(cfg, core_input_size) -> ModelCore``."""
        self.make_model_core_func = make_model_core_func

    def register_decoder_factory(self, make_model_decoder_func: MakeDecoderFunc) -> None:
        """Replace the decoder: ``f(cfg, decoder_input_size) -> Decoder``."""
        self.make_model_decoder_func = make_model_decoder_func
