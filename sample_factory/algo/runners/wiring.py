"""Every signal connection of a run, in one place.

========================================================  ===========================================================
emitter . signal                                          receiver . slot
========================================================  ===========================================================
loop . start                                              Runner . _on_start
learner loop . start                                      LearnerWorker . init
LearnerWorker . model_initialized                         Sampler, which passes it on to InferenceWorker . init
LearnerWorker . initialized                               Batcher . init
LearnerWorker . training_batch_released                   Batcher . on_training_batch_released
LearnerWorker . finished_training_iteration               Runner . _after_training_iteration
LearnerWorker . saved_model                               (population-based training)
Batcher . training_batches_available                      LearnerWorker . on_new_training_batch
Batcher . trajectory_buffers_available                    (nobody here: workers see it in shared memory)
Runner . worker_died                                      Batcher . on_worker_died
Batcher . worker_forgotten                                ParallelRunner . on_worker_forgotten
Batcher . stop                                            LearnerWorker . on_stop
InferenceWorker . initialized                             Sampler . _inference_worker_ready
Sampler . _inference_workers_initialized                  RolloutWorker . init
RolloutWorker . p<policy>_trajectories                    Batcher . on_new_trajectories
Runner . save_periodic / save_best / save_milestone       LearnerWorker . save / save_best / save_milestone
Runner . update_training_info                             RolloutWorker . on_update_training_info
Runner . stop                                             Batcher, InferenceWorker, RolloutWorker . on_stop
every component . report_msg                              Runner . _process_msg
every component . heartbeat                               Runner . _receive_heartbeat
every component . stop                                    Runner . _component_stopped
Runner . all_components_stopped                           Runner . _on_everything_stopped
========================================================  ===========================================================

Requests for actions, answers and released blocks are not signals: they go through shared memory (``policy_channel``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from sample_factory.algo.sampling.sampler import Sampler
from sample_factory.algo.utils.heartbeat import HeartbeatStoppableEventLoopObject

if TYPE_CHECKING:
    from sample_factory.algo.runners.runner import Runner


def connect_components(runner: Runner) -> list[HeartbeatStoppableEventLoopObject]:
    """Connect all components; must happen before any process is started. Returns the components that report their
    stop.
    """
    sampler = cast(Sampler, runner.sampler)
    runner.event_loop.start.connect(runner._on_start)
    runner.all_components_stopped.connect(runner._on_everything_stopped)
    for policy_id in runner.learners:
        _connect_policy(runner, sampler, policy_id)
    _connect_sampler(runner, sampler)

    components = [*runner.batchers.values(), *runner.learners.values(), *sampler.stoppable_components()]
    for component in components:
        component.heartbeat.connect(runner._receive_heartbeat)
        component.stop.connect(runner._component_stopped)
    return components


def _connect_policy(runner: Runner, sampler: Sampler, policy_id: int) -> None:
    learner, batcher = runner.learners[policy_id], runner.batchers[policy_id]
    learner.event_loop.start.connect(learner.init)
    sampler.connect_model_initialized(policy_id, learner.model_initialized)
    learner.initialized.connect(batcher.init)
    learner.training_batch_released.connect(batcher.on_training_batch_released)
    batcher.training_batches_available.connect(learner.on_new_training_batch)
    sampler.connect_on_new_trajectories(policy_id, batcher.on_new_trajectories)

    learner.report_msg.connect(runner._process_msg)
    learner.finished_training_iteration.connect(runner._after_training_iteration)
    runner.save_periodic.connect(learner.save)
    runner.save_milestone.connect(learner.save_milestone)
    runner.save_best.connect(learner.save_best)

    # The learner stops after its batcher, so that no batch arrives at a stopped learner.
    runner.stop.connect(batcher.on_stop)
    batcher.stop.connect(learner.on_stop)


def _connect_sampler(runner: Runner, sampler: Sampler) -> None:
    sampler.connect_report_msg(runner._process_msg)
    sampler.connect_update_training_info(runner.update_training_info)
    for component in sampler.stoppable_components():
        runner.stop.connect(component.on_stop)
