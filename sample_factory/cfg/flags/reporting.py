"""Flags about logs, summaries, the end of training and checkpoints."""

from __future__ import annotations

from sample_factory.cfg.flags.flag import Flag, Section, at_least, between, finite, positive, str2bool

_LOGGING = (
    Flag("log_to_file", str2bool, True, "Write the log to sf_log.txt in the experiment folder as well."),
    Flag(
        "experiment_summaries_interval",
        int,
        10,
        "Seconds between two writes of TensorBoard summaries. 0: as often as possible, up to ten times a second.",
        bounds=at_least(0),
        quantity=True,
    ),
    Flag(
        "flush_summaries_interval",
        int,
        30,
        "Seconds after which TensorBoard summaries are flushed to disk.",
        bounds=positive(),
        quantity=True,
    ),
    Flag("stats_avg", int, 100, "Number of episodes over which episode statistics are averaged.", bounds=at_least(1)),
    Flag(
        "summaries_use_frameskip",
        str2bool,
        True,
        "Count environment steps and episode lengths in simulated frames: multiply by --env_frameskip.",
    ),
    Flag(
        "heartbeat_interval",
        int,
        20,
        "Seconds between the life signs of each component. Reduced to half of --heartbeat_reporting_interval if it is "
        "not below that.",
        bounds=positive(),
        quantity=True,
    ),
    Flag(
        "heartbeat_reporting_interval",
        int,
        180,
        "Seconds between two checks of the life signs; silent components are reported.",
        bounds=positive(),
        quantity=True,
    ),
)

_TERMINATION = (
    Flag(
        "train_for_env_steps",
        int,
        10_000_000_000,
        "Stop after this many environment steps (of every policy).",
        bounds=at_least(0),
        quantity=True,
    ),
    Flag(
        "train_for_seconds",
        int,
        10_000_000_000,
        "Stop after this many seconds of training.",
        bounds=at_least(0),
        quantity=True,
    ),
    Flag(
        "requeue_exit_code",
        int,
        None,
        "Exit with this code after SIGTERM or SIGUSR1, when everything is saved, so that a scheduler knows that the "
        "run wants to be started again. Not set: SIGTERM exits with 143, and SIGUSR1 saves and training goes on.",
        bounds=between(1, 255),
        extension=True,
        per_run=True,
    ),
)

_CHECKPOINTS = (
    Flag("save_every_sec", int, 120, "Seconds between two checkpoints.", bounds=positive(), quantity=True),
    Flag("keep_checkpoints", int, 2, "Number of newest checkpoints to keep.", bounds=at_least(1)),
    Flag(
        "load_checkpoint_kind",
        str,
        "latest",
        "Checkpoint to start from: the newest one or the one with the best --save_best_metric.",
        choices=("latest", "best"),
        synonyms={"newest": "latest", "last": "latest"},
    ),
    Flag(
        "save_milestones_sec",
        int,
        -1,
        "Seconds between two checkpoints that are kept for ever; 0 or less: none.",
        bounds=finite(),
        quantity=True,
    ),
    Flag(
        "save_best_every_sec",
        int,
        5,
        "Seconds between two checks for a new best policy. 0: as often as possible, up to ten times a second.",
        bounds=at_least(0),
        quantity=True,
    ),
    Flag(
        "save_best_metric",
        str,
        "reward",
        "Episode statistic that decides which policy is best. Any statistic the environment reports.",
    ),
    Flag(
        "save_best_after",
        int,
        100_000,
        "Environment steps before the first best policy is saved.",
        bounds=at_least(0),
        quantity=True,
    ),
    Flag(
        "save_fault_timeout",
        int,
        1800,
        "Seconds for which checkpoints may fail to be written (disk full, folder lost). Training goes on meanwhile and "
        "saving is tried again; after that the run ends with exit code 1.",
        bounds=at_least(0),
        extension=True,
        quantity=True,
    ),
    Flag(
        "benchmark",
        str2bool,
        False,
        "Measure throughput: no decorrelation delay and no clean-up of the GPU memory cache.",
    ),
)

_TERMINAL = (
    Flag(
        "ui",
        str,
        "auto",
        "What training prints: a live view (rich), log lines (plain), only warnings and errors (none), or a live view "
        "if the output is a terminal and log lines otherwise (auto). The log file gets everything in all cases.",
        choices=("auto", "rich", "plain", "none"),
        extension=True,
        per_run=True,
    ),
)

REPORTING = Section(
    "reporting",
    "Logs, end of training, checkpoints",
    _LOGGING + _TERMINATION + _CHECKPOINTS + _TERMINAL,
)
