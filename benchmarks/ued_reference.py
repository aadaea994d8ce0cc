"""Numbers of minimax that are quoted, not measured by the programs here."""

from __future__ import annotations

from benchmarks.ued_curves import WINDOW

# Mean solved rate over the twelve test mazes after 30,000 updates with an LSTM: title, mean, deviation over ten runs.
PANEL_RATES = {
    "dr": ("DR", 0.55, 0.05),
    "paired": ("PAIRED", 0.63, 0.04),
    "plr": ("robust PLR", 0.82, 0.02),
    "pplr": ("parallel robust PLR", 0.80, 0.02),
    "accel": ("ACCEL", 0.83, 0.02),
    "paccel": ("parallel ACCEL", 0.78, 0.03),
}

# First update of a window of ten -> means over it of return, entropy, value loss, gradient norm and mean value, in a
# run of minimax with the shipped DR configuration and seed 1.
EARLY_DR = {
    1: (0.047, 1.9459, 0.0018, 0.016, 0.004),
    31: (0.067, 1.9456, 0.0018, 0.014, 0.028),
    51: (0.065, 1.9427, 0.0015, 0.019, 0.023),
    71: (0.062, 1.9130, 0.0014, 0.033, 0.021),
    91: (0.112, 1.8197, 0.0024, 0.045, 0.038),
    111: (0.080, 1.7055, 0.0020, 0.051, 0.026),
    131: (0.120, 1.6772, 0.0026, 0.060, 0.033),
    141: (0.093, 1.6136, 0.0023, 0.060, 0.042),
}


def early_dr_window(first_update: int) -> int:
    """Index of the window that begins with this update.

    >>> early_dr_window(141)
    14
    """
    return (first_update - 1) // WINDOW
