"""Proximal policy optimisation on rollouts of batched environments."""
