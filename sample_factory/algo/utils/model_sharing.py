"""Weights on their way from a learner to its inference workers.

The learner's module is private to the learner process. :class:`SharedWeights` is a double buffer in shared memory: the
learner fills the half nobody reads and then moves the version forward, readers copy the half of the newest version and
check afterwards that it was not overwritten meanwhile. No lock is held by anybody, so neither a killed learner nor a
killed reader can block the other.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from sample_factory.algo.utils.env_info import EnvInfo
from sample_factory.algo.utils.multiprocessing_utils import FakeLock
from sample_factory.utils.timing import Timing
from sample_factory.utils.typing import Config, PolicyID
from sample_factory.utils.utils import log

if TYPE_CHECKING:
    from sample_factory.model.actor_critic import ActorCritic

_MIN_LOG_INTERVAL_SEC = 5.0
_ALIGNMENT = 16  # bytes; every tensor of the flat buffer starts at a multiple of it


class _ModuleState:
    """Parameters and buffers of a module in registration order: what one version of the weights consists of."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        # Where they are registered: walking through the modules every time would cost more than copying.
        self._slots: list[tuple[dict[str, Tensor | None], str]] = []
        seen: set[int] = set()
        for kind in ("_parameters", "_buffers"):
            for part in module.modules():
                registry = getattr(part, kind)
                for name, tensor in registry.items():
                    if tensor is not None and id(tensor) not in seen:
                        seen.add(id(tensor))
                        self._slots.append((registry, name))

    def tensors(self) -> list[Tensor]:
        """The tensors that are registered now, detached."""
        return [registry[name].detach() for registry, name in self._slots]  # type: ignore[union-attr]


class SharedWeights:
    """Versioned double buffer for the state of one module; allocate in the main process, attach anywhere."""

    def __init__(self, module: nn.Module) -> None:
        self._specs = [(tuple(t.shape), t.dtype) for t in _ModuleState(module).tensors()]
        size = sum(_padded_size(shape, dtype) for shape, dtype in self._specs)
        self._storage = torch.zeros([2, max(size, _ALIGNMENT)], dtype=torch.uint8).share_memory_()
        self._publications = torch.zeros([1], dtype=torch.int64).share_memory_()  # its parity names the newest half
        self._versions = torch.zeros([2], dtype=torch.int64).share_memory_()  # policy version of each half
        self._attach()

    def _attach(self) -> None:
        self._halves: list[list[Tensor]] | None = None
        self._known: _ModuleState | None = None
        self._mirror: _Mirror | None = None
        # Looked at before every forward pass: through NumPy that costs a tenth.
        self._publications_view = self._publications.numpy()

    def __getstate__(self) -> dict[str, object]:
        kept = ("_specs", "_storage", "_publications", "_versions")
        return {name: self.__dict__[name] for name in kept}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self._attach()

    def _views(self, half: int) -> list[Tensor]:
        if self._halves is None:
            self._halves = [list(_views_of(storage, self._specs)) for storage in self._storage]
        return self._halves[half]

    def _mirror_on(self, tensors: list[Tensor]) -> _Mirror | None:
        """Where the tensors of a module on a GPU are joined, so that they travel as one; ``None`` on the CPU."""
        if not tensors or any(not tensor.is_cuda for tensor in tensors):
            return None
        if self._mirror is None:
            storage = torch.zeros_like(self._storage[0], device=tensors[0].device)
            self._mirror = _Mirror(storage, list(_views_of(storage, self._specs)))
        return self._mirror

    def publish(self, module: nn.Module, policy_version: int) -> None:
        """Copy the module's state into the free half and make it the newest version."""
        publications = self.num_publications() + 1
        half = publications % 2
        tensors = self._tensors_of(module)
        mirror = self._mirror_on(tensors)
        if mirror is None:
            torch._foreach_copy_(self._views(half), tensors)
        else:
            torch._foreach_copy_(mirror.views, tensors)
            self._storage[half].copy_(mirror.storage)
        self._versions[half] = policy_version
        self._publications_view[0] = publications

    def num_publications(self) -> int:
        return int(self._publications_view[0])

    def copy_to(self, module: nn.Module) -> int:
        """Copy the newest version into the module; returns its policy version."""
        tensors = self._tensors_of(module)
        mirror = self._mirror_on(tensors)
        while True:
            publications = self.num_publications()
            half = publications % 2
            if mirror is None:
                torch._foreach_copy_(tensors, self._views(half))
            else:
                mirror.storage.copy_(self._storage[half])
                torch._foreach_copy_(tensors, mirror.views)
            version = int(self._versions[half])
            # Had the learner published again, it might be filling this half already: copy once more.
            if self.num_publications() == publications:
                return version

    def _tensors_of(self, module: nn.Module) -> list[Tensor]:
        if self._known is None or self._known.module is not module:
            known = _ModuleState(module)
            self._check(known.tensors())
            self._known = known
        return self._known.tensors()

    def _check(self, tensors: list[Tensor]) -> None:
        specs = [(tuple(t.shape), t.dtype) for t in tensors]
        if specs != self._specs:
            raise ValueError(
                f"the model of this process ({len(specs)} tensors) differs from the one the weights were allocated for "
                f"({len(self._specs)} tensors); make model factories depend on the configuration and the spaces only"
            )


class _Mirror(NamedTuple):
    storage: Tensor
    views: list[Tensor]


def _views_of(storage: Tensor, specs: list[tuple[tuple[int, ...], torch.dtype]]) -> Iterator[Tensor]:
    """The tensors of one version in its bytes."""
    offset = 0
    for shape, dtype in specs:
        num_bytes = math.prod(shape) * dtype.itemsize
        yield storage[offset : offset + num_bytes].view(dtype).view(shape)
        offset += _padded_size(shape, dtype)


def _padded_size(shape: tuple[int, ...], dtype: torch.dtype) -> int:
    size = math.prod(shape) * dtype.itemsize
    return -(-size // _ALIGNMENT) * _ALIGNMENT


class ParameterServer:
    """The learner's side: owns the newest weights of one policy and tells everybody their version."""

    def __init__(
        self, policy_id: PolicyID, policy_versions: Tensor, serial_mode: bool, weights: SharedWeights | None = None
    ):
        self.policy_id = policy_id
        self.actor_critic: ActorCritic | None = None
        self.device: torch.device | None = None
        self.weights = weights
        self._policy_versions = policy_versions  # int32 [P]
        self._versions_view = policy_versions.numpy()
        self._serial_mode = serial_mode
        self._lock = FakeLock()

    @property
    def policy_lock(self) -> AbstractContextManager[object]:
        """Kept for code that wraps weight updates in it; publication needs no lock."""
        return self._lock

    @property
    def policy_version(self) -> int:
        """Version everybody was told last."""
        return int(self._versions_view[self.policy_id])

    def init(self, actor_critic: ActorCritic, device: torch.device, policy_version: int) -> None:
        """First publication, after the model was created and its checkpoint loaded."""
        self.actor_critic, self.device = actor_critic, device
        if self.weights is None and not self._serial_mode:
            self.weights = SharedWeights(actor_critic)
        self.publish(policy_version)

    def publish(self, policy_version: int) -> None:
        """Make the current weights available as ``policy_version``."""
        if self.weights is not None:
            assert self.actor_critic is not None
            self.weights.publish(self.actor_critic, policy_version)
        self._policy_versions[self.policy_id] = policy_version

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "actor_critic": None, "device": None, "_versions_view": None}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self._versions_view = self._policy_versions.numpy()


class ParameterClient:
    """The inference worker's side: the module to act with and the version of its weights."""

    def __init__(self, param_server: ParameterServer, cfg: Config, env_info: EnvInfo, timing: Timing):
        self.server = param_server
        self.cfg, self.env_info, self.timing = cfg, env_info, timing
        self.policy_id = param_server.policy_id

    @property
    def actor_critic(self) -> ActorCritic:
        raise NotImplementedError

    @property
    def policy_version(self) -> int:
        raise NotImplementedError

    def init(self, device: torch.device) -> None:
        """Build or find the module; called once, after the learner published for the first time."""

    def ensure_weights_updated(self) -> bool:
        """Fetch newer weights if there are any; returns whether the module may have changed."""
        return False


class ParameterClientSerial(ParameterClient):
    """Learner and inference share one module in one process."""

    @property
    def actor_critic(self) -> ActorCritic:
        if self.server.actor_critic is None:
            raise RuntimeError(f"policy {self.policy_id} has no model yet: initialise its learner first")
        return self.server.actor_critic

    @property
    def policy_version(self) -> int:
        return self.server.policy_version

    def init(self, device: torch.device) -> None:
        return None

    def ensure_weights_updated(self) -> bool:
        # The learner trains this very module: if it did since, it left it in training mode.
        actor_critic = self.actor_critic
        if not actor_critic.training:
            return False
        actor_critic.eval()
        return True


class ParameterClientAsync(ParameterClient):
    """A copy of the module, refreshed from the shared double buffer."""

    def __init__(self, param_server: ParameterServer, cfg: Config, env_info: EnvInfo, timing: Timing):
        super().__init__(param_server, cfg, env_info, timing)
        self._actor_critic: ActorCritic | None = None
        self._version = -1
        self._num_publications = 0
        self._num_updates, self._update_sec, self._logged_at = 0, 0.0, 0.0

    @property
    def actor_critic(self) -> ActorCritic:
        assert self._actor_critic is not None, "init() first"
        return self._actor_critic

    @property
    def policy_version(self) -> int:
        return self._version

    def init(self, device: torch.device) -> None:
        # lazy: models are a layer above; the public path of this module is older than the layers
        from sample_factory.model.actor_critic import create_actor_critic

        actor_critic = create_actor_critic(self.cfg, self.env_info.obs_space, self.env_info.action_space)
        actor_critic.model_to_device(device)
        actor_critic.eval()
        for parameter in actor_critic.parameters():
            parameter.requires_grad = False
        self._actor_critic = actor_critic
        self._version = 0  # random weights until something is published (sampling without a learner)

    def ensure_weights_updated(self) -> bool:
        weights = self.server.weights
        if weights is None:
            return False
        publications = weights.num_publications()
        if publications == self._num_publications:
            return False
        started = time.perf_counter()
        self._version = weights.copy_to(self.actor_critic)
        self._num_publications = publications
        self._num_updates += 1
        now = time.perf_counter()
        self._update_sec += now - started
        # Every 10th update, but small models are updated dozens of times a second.
        if self._num_updates % 10 == 0 and now - self._logged_at > _MIN_LOG_INTERVAL_SEC:
            self._logged_at = now
            average = self._update_sec / self._num_updates
            log.debug(f"Updated weights for policy {self.policy_id}, policy_version {self._version} ({average:.4f})")
        return True


def make_parameter_client(
    is_serial_mode: bool, parameter_server: ParameterServer, cfg: Config, env_info: EnvInfo, timing: Timing
) -> ParameterClient:
    cls = ParameterClientSerial if is_serial_mode else ParameterClientAsync
    return cls(parameter_server, cfg, env_info, timing)
