"""One learner step in float64, written from the formulas alone: loops over samples, no code shared with the package.

Autograd is used for derivatives only. Adam, clipping, normalisation, returns and the recurrent cell are spelled out.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

OBS = "obs_normalizer.running_mean_std.running_mean_std.obs."
RET = "returns_normalizer."


def normalize(x: Any, mean: Any, var: Any) -> Any:
    return np.clip((x - mean) / np.sqrt(var + 1e-5), -5, 5)


def merge_moments(rows: np.ndarray, mean: Any, var: Any, count: float) -> tuple[Any, Any, float]:
    """Pool the old moments (weight ``count``) with the rows', using the unbiased variance of the rows."""
    n = len(rows)
    row_mean = rows.mean(axis=0)
    row_var = ((rows - row_mean) ** 2).sum(axis=0) / (n - 1)
    total = n + count
    between = (row_mean - mean) ** 2 * n * count / total
    return (mean * count + row_mean * n) / total, (var * count + row_var * n + between) / total, total


class ReferenceStep:
    """Repeats ``Learner.train`` for one minibatch, one epoch, discrete actions, one hidden ELU layer, optional GRU."""

    def __init__(self, state_dict: dict[str, Tensor], cfg: Any) -> None:
        self.cfg = cfg
        self.state = {k: v.detach().double().numpy().copy() for k, v in state_dict.items()}

    # --- network ---

    def params(self, requires_grad: bool) -> dict[str, Tensor]:
        names = [k for k in self.state if "normalizer" not in k]
        return {k: torch.tensor(self.state[k], requires_grad=requires_grad) for k in names}

    def net(self, p: dict[str, Tensor], obs: np.ndarray, h: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """One time step for all rows: logits, values, next recurrent state."""
        x = torch.from_numpy(obs) @ p["encoder.encoders.obs.mlp_head.0.weight"].T
        x = torch.nn.functional.elu(x + p["encoder.encoders.obs.mlp_head.0.bias"])
        if self.cfg.use_rnn:
            gi = x @ p["core.core.weight_ih_l0"].T + p["core.core.bias_ih_l0"]
            gh = h @ p["core.core.weight_hh_l0"].T + p["core.core.bias_hh_l0"]
            size = h.shape[1]
            r = torch.sigmoid(gi[:, :size] + gh[:, :size])
            z = torch.sigmoid(gi[:, size : 2 * size] + gh[:, size : 2 * size])
            n = torch.tanh(gi[:, 2 * size :] + r * gh[:, 2 * size :])
            h = (1 - z) * n + z * h
            x = h
        values = x @ p["critic_linear.weight"].T + p["critic_linear.bias"]
        logits = (
            x @ p["action_parameterization.distribution_linear.weight"].T
            + p["action_parameterization.distribution_linear.bias"]
        )
        return logits, values[:, 0], h

    def unroll(self, p: dict[str, Tensor], obs: np.ndarray, h0: np.ndarray, cut: np.ndarray) -> tuple[Tensor, Tensor]:
        """Logits [N, T, A] and values [N, T]; the state is reset after steps where ``cut`` is set."""
        h = torch.from_numpy(h0)
        logits, values = [], []
        for t in range(obs.shape[1]):
            step_logits, step_values, h = self.net(p, obs[:, t], h)
            logits.append(step_logits)
            values.append(step_values)
            h = h * torch.from_numpy(1.0 - cut[:, t].astype(float))[:, None]
        return torch.stack(logits, dim=1), torch.stack(values, dim=1)

    # --- the step ---

    def run(self, batch: Any, policy_id: int) -> dict[str, Any]:
        cfg, s = self.cfg, self.state
        b = {k: v.double().numpy() for k, v in batch.items() if isinstance(v, Tensor)}
        obs = batch["obs"]["obs"].double().numpy()
        num_rows, num_steps = b["rewards"].shape
        dones = b["dones"].astype(bool)
        valid = (b["policy_id"] == policy_id) & (0 - b["policy_version"] < cfg.max_policy_lag)
        valid_next = np.concatenate([valid[:, 1:], valid[:, -1:]], axis=1)

        if cfg.normalize_input:
            moments = merge_moments(obs[:, :-1][valid], s[OBS + "running_mean"], s[OBS + "running_var"], 1.0)
            s[OBS + "running_mean"], s[OBS + "running_var"], s[OBS + "count"] = moments
            obs = normalize(obs, s[OBS + "running_mean"], s[OBS + "running_var"])

        with torch.no_grad():
            last_h = torch.from_numpy(b["rnn_states"][:, -1])
            last_value = self.net(self.params(False), obs[:, -1], last_h)[1].numpy()
        old_values = b["values"].copy()
        old_values[:, -1] = last_value
        values = old_values.copy()
        if cfg.normalize_returns:
            std = math.sqrt(s[RET + "running_var"][0] + 1e-5)
            values = np.clip(values, -5, 5) * std + s[RET + "running_mean"][0]

        rewards = b["rewards"].copy()
        if cfg.value_bootstrap:
            rewards += cfg.gamma * values[:, :-1] * b["time_outs"].astype(bool) * dones

        adv = np.zeros((num_rows, num_steps + 1))
        for i in range(num_rows):
            for t in reversed(range(num_steps)):
                alive = 0.0 if dones[i, t] else 1.0
                bootstrap = alive * cfg.gamma * values[i, t + 1] * valid_next[i, t]
                if valid[i, t]:
                    delta = rewards[i, t] - values[i, t] + bootstrap
                    adv[i, t] = delta + cfg.gamma * cfg.gae_lambda * alive * adv[i, t + 1]
                else:
                    adv[i, t] = bootstrap + alive * adv[i, t + 1]
        adv = adv[:, :-1]
        returns = adv + values[:, :-1]
        if cfg.normalize_returns:
            moments = merge_moments(returns[valid], s[RET + "running_mean"][0], s[RET + "running_var"][0], 1.0)
            s[RET + "running_mean"][0], s[RET + "running_var"][0], s[RET + "count"][0] = moments
            returns = normalize(returns, moments[0], moments[1])

        p = self.params(True)
        logits, new_values = self.unroll(p, obs[:, :-1], b["rnn_states"][:, 0], dones | ~valid)
        loss, parts = self.loss(b, logits, new_values, old_values, adv, returns, valid)
        loss.backward()
        norm = self.adam(p, lr=cfg.learning_rate * valid.mean())
        return {"loss": loss.item(), "grad_norm": norm, **parts}

    def loss(
        self,
        b: Any,
        logits: Tensor,
        new_values: Tensor,
        old_values: np.ndarray,
        adv: np.ndarray,
        returns: np.ndarray,
        valid: np.ndarray,
    ) -> tuple[Tensor, dict[str, float]]:
        cfg = self.cfg
        chosen = adv[valid]
        mean, std = chosen.mean(), chosen.std(ddof=1)
        high = 1 + cfg.ppo_clip_ratio
        policy, value, entropy, kl = [], [], [], []
        for i, t in zip(*np.nonzero(valid), strict=True):
            log_p = torch.log_softmax(logits[i, t], dim=0)
            log_q = torch.log_softmax(torch.from_numpy(b["action_logits"][i, t]), dim=0)
            ratio = torch.exp(log_p[int(b["actions"][i, t, 0])] - b["log_prob_actions"][i, t]).clamp(0.05, 20)
            a = (adv[i, t] - mean) / std
            policy.append(torch.min(ratio * a, ratio.clamp(1 / high, high) * a))
            entropy.append(-(log_p.exp() * log_p).sum())
            kl.append((log_p.exp() * (log_p - log_q)).sum())
            v, v_old, y = new_values[i, t], old_values[i, t], returns[i, t]
            v_clipped = v_old + (v - v_old).clamp(-cfg.ppo_clip_value, cfg.ppo_clip_value)
            value.append(torch.max((v - y) ** 2, (v_clipped - y) ** 2))
        parts = {
            "policy_loss": -torch.stack(policy).mean(),
            "exploration_loss": -cfg.exploration_loss_coeff * torch.stack(entropy).mean(),
            "kl_loss": cfg.kl_loss_coeff * torch.stack(kl).mean(),
            "value_loss": cfg.value_loss_coeff * torch.stack(value).mean(),
        }
        numbers = {name: part.item() for name, part in parts.items()}
        return sum(parts.values()), numbers | {"kl_divergence": torch.stack(kl).mean().item(), "adv_mean": mean}

    def adam(self, p: dict[str, Tensor], lr: float) -> float:
        """First step of Adam from zero moments, after clipping the global norm. Returns the clipped norm."""
        cfg = self.cfg
        grads = {k: x.grad.numpy() for k, x in p.items() if x.grad is not None}
        norm = math.sqrt(sum((g**2).sum() for g in grads.values()))
        scale = min(1.0, cfg.max_grad_norm / (norm + 1e-6))
        for name, grad in grads.items():
            g = grad * scale
            m, v = (1 - cfg.adam_beta1) * g, (1 - cfg.adam_beta2) * g**2
            m_hat, v_hat = m / (1 - cfg.adam_beta1), v / (1 - cfg.adam_beta2)
            self.state[name] = self.state[name] - lr * m_hat / (np.sqrt(v_hat) + cfg.adam_eps)
        return norm * scale
