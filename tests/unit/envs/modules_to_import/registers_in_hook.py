from typing import Any

from sample_factory.envs.env_utils import register_env
from tests.unit.envs.sample_envs import make_counting_env


def register_special_envs(prefix: str = "special") -> None:
    register_env(f"{prefix}_env", make_counting_env)


def register_other_components(parser: Any) -> None:
    raise AssertionError("needs an argument: not a hook")


def register_custom_components() -> None:
    register_env("registered_in_hook", make_counting_env)
