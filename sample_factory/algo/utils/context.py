"""Process-global registries: environments and model factories.

The context is pickled into every child process, so everything registered must be picklable
(module-level functions, bound methods of picklable objects, ``functools.partial``).
"""

from __future__ import annotations

from sample_factory.model.model_factory import ModelFactory
from sample_factory.utils.typing import CreateEnvFunc


class SampleFactoryContext:
    """What user code registers: environment factories by name and model component factories.

    ``env_modules`` remembers which module registered an environment, so that evaluation started later
    from the command line can import it again.
    """

    def __init__(self) -> None:
        self.env_registry: dict[str, CreateEnvFunc] = {}
        self.env_modules: dict[str, str] = {}
        self.model_factory = ModelFactory()


_context: SampleFactoryContext | None = None


def sf_global_context() -> SampleFactoryContext:
    """The context of this process, created on first use."""
    global _context
    if _context is None:
        _context = SampleFactoryContext()
    return _context


def set_global_context(ctx: SampleFactoryContext) -> None:
    global _context
    _context = ctx


def reset_global_context() -> None:
    """Forget everything registered so far."""
    set_global_context(SampleFactoryContext())


def global_env_registry() -> dict[str, CreateEnvFunc]:
    return sf_global_context().env_registry


def global_model_factory() -> ModelFactory:
    return sf_global_context().model_factory
