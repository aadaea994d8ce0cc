"""Environments of unsupervised environment design. The built-in ones are registered on import."""

from sample_factory.ued.envs.maze.builders import register_mazes

register_mazes()
