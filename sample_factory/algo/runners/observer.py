"""What user code can do at the turning points of a run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sample_factory.utils.typing import PolicyID

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

    from sample_factory.algo.runners.runner import Runner


class AlgoObserver:
    """Hooks user code can implement. Called in the order the observers were registered."""

    def on_init(self, runner: Runner) -> None:
        """Configuration and spaces are known, nothing is created yet."""

    def on_connect_components(self, runner: Runner) -> None:
        """All components exist and are connected; connect your own signals here."""

    def on_start(self, runner: Runner) -> None:
        """The components are being started."""

    def on_training_step(self, runner: Runner, training_iteration_since_resume: int) -> None:
        """Some policy finished a training iteration."""

    def extra_summaries(self, runner: Runner, policy_id: PolicyID, writer: SummaryWriter, env_steps: int) -> None:
        """Write your own summaries of one policy."""

    def on_stop(self, runner: Runner) -> None:
        """Training is about to stop."""
