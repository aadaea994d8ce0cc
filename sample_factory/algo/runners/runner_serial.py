"""Everything in one process on one loop: easy to debug, no transport cost."""

from __future__ import annotations

from sample_factory.algo.learning.batcher import Batcher
from sample_factory.algo.learning.learner_worker import LearnerWorker
from sample_factory.algo.runners.runner import Runner
from sample_factory.algo.sampling.sampler import SerialSampler
from sample_factory.algo.utils.misc import ExperimentStatus
from sample_factory.algo.utils.seeding import seed_process
from sample_factory.utils.typing import Config, StatusCode


class SerialRunner(Runner):
    def __init__(self, cfg: Config):
        super().__init__(cfg, "SerialRunner")

    def init(self) -> StatusCode:
        status = super().init()
        if status != ExperimentStatus.SUCCESS:
            return status
        assert self.env_info is not None and self.buffer_mgr is not None
        seed_process(self.cfg, "serial")
        loop = self.event_loop
        for policy_id in range(self.cfg.num_policies):
            batcher = Batcher(loop, policy_id, self.buffer_mgr, self.cfg, self.env_info)
            self.batchers[policy_id] = batcher
            self.learners[policy_id] = LearnerWorker(loop, self.cfg, self.env_info, self.buffer_mgr, batcher, policy_id)
        param_servers = {policy_id: learner.param_server for policy_id, learner in self.learners.items()}
        self.sampler = SerialSampler(loop, self.buffer_mgr, param_servers, self.cfg, self.env_info)
        self.connect_components()
        return status
