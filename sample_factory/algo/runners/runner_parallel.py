"""One process per learner (with its batcher's thread), inference worker and rollout worker."""

from __future__ import annotations

from signal_slot.signal_slot import EventLoop

from sample_factory.algo.learning.batcher import Batcher
from sample_factory.algo.learning.learner_worker import LearnerWorker, init_learner_process
from sample_factory.algo.runners.resources import ResourceError, check_room_for_weights
from sample_factory.algo.runners.runner import Runner
from sample_factory.algo.sampling.sampler import ParallelSampler
from sample_factory.algo.utils.child_process import ChildProcess
from sample_factory.algo.utils.context import sf_global_context
from sample_factory.algo.utils.misc import ExperimentStatus
from sample_factory.algo.utils.model_sharing import SharedWeights
from sample_factory.algo.utils.multiprocessing_utils import get_mp_ctx
from sample_factory.model.actor_critic import create_actor_critic
from sample_factory.utils.typing import Config, PolicyID, StatusCode
from sample_factory.utils.utils import log


class ParallelRunner(Runner):
    def __init__(self, cfg: Config):
        super().__init__(cfg)
        self._learner_processes: dict[PolicyID, ChildProcess] = {}

    def init(self) -> StatusCode:
        status = super().init()
        if status != ExperimentStatus.SUCCESS:
            return status
        assert self.env_info is not None and self.buffer_mgr is not None
        # Built once here: its size is needed to allocate the shared weights, and a broken model fails before any
        # process runs.
        model = create_actor_critic(self.cfg, self.env_info.obs_space, self.env_info.action_space)
        try:
            check_room_for_weights(self.cfg, model)
        except ResourceError as exc:
            return self._fail_init(f"{exc}", ExperimentStatus.FAILURE)
        for policy_id in range(self.cfg.num_policies):
            self._make_learner(policy_id, SharedWeights(model))
        param_servers = {policy_id: learner.param_server for policy_id, learner in self.learners.items()}
        self.sampler = ParallelSampler(self.event_loop, self.buffer_mgr, param_servers, self.cfg, self.env_info)
        self.connect_components()
        for policy_id, process in self._learner_processes.items():
            # The batcher's loop runs in a thread of the learner's process.
            self.batchers[policy_id].event_loop.process = process
        return status

    def _make_learner(self, policy_id: PolicyID, weights: SharedWeights) -> None:
        assert self.env_info is not None and self.buffer_mgr is not None
        mp_ctx = get_mp_ctx(self.cfg.serial_mode)
        assert mp_ctx is not None
        batcher_loop = EventLoop(f"batcher_{policy_id}_evt_loop")
        batcher = Batcher(batcher_loop, policy_id, self.buffer_mgr, self.cfg, self.env_info)
        batcher_loop.owner = batcher

        process = ChildProcess(f"learner_proc{policy_id}", mp_ctx, init_learner_process)
        learner = LearnerWorker(
            process.event_loop, self.cfg, self.env_info, self.buffer_mgr, batcher, policy_id, weights
        )
        process.event_loop.owner = learner
        process.set_init_func_args((sf_global_context(), learner))
        self._learner_processes[policy_id] = process
        self.batchers[policy_id], self.learners[policy_id] = batcher, learner

    def _start_processes(self) -> None:
        for process in self._learner_processes.values():
            log.debug(f"Starting process {process.name}")
            process.start()

    def _all_processes(self) -> list[ChildProcess]:
        assert isinstance(self.sampler, ParallelSampler)
        return [*self._learner_processes.values(), *self.sampler.processes]
