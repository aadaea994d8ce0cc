from sample_factory.envs.env_utils import register_env
from tests.unit.envs.sample_envs import make_counting_env

register_env("registered_on_import", make_counting_env)
