"""A training run on disk and in processes: its folder, files, checkpoints, logs, ranks and main loop."""
