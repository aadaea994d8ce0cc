"""The level buffer written down literally, one element at a time: slow and plain."""

from __future__ import annotations

from dataclasses import dataclass, field

INF = float("inf")


@dataclass
class ReferenceBuffer:
    capacity: int
    temperature: float
    staleness: float
    ranks: bool
    refresh_age: bool
    scores: list[float] = field(default_factory=list)
    ages: list[int] = field(default_factory=list)
    maxima: list[float] = field(default_factory=list)
    mutations: list[int] = field(default_factory=list)
    filled: list[bool] = field(default_factory=list)
    names: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        n = self.capacity
        self.scores, self.maxima = [-INF] * n, [-INF] * n
        self.ages, self.mutations, self.names = [0] * n, [0] * n, [0] * n
        self.filled = [False] * n

    def probabilities(self) -> list[float]:
        slots = range(self.capacity)
        if self.ranks:
            order = sorted(slots, key=lambda i: (-self.scores[i], i))
            h = [1.0 / (order.index(i) + 1) for i in slots]
        else:
            h = [self.scores[i] if self.filled[i] else 0.0 for i in slots]
        weights = [h[i] ** (1.0 / self.temperature) if self.filled[i] else 0.0 for i in slots]
        total = sum(weights)
        if total > 0:
            by_score = [w / total for w in weights]
        else:
            by_score = [1.0 / sum(self.filled) if self.filled[i] else 0.0 for i in slots]
        aged = [self.ages[i] if self.filled[i] else 0 for i in slots]
        if sum(aged) == 0:
            return by_score
        return [(1 - self.staleness) * by_score[i] + self.staleness * aged[i] / sum(aged) for i in slots]

    def draw(self, uniforms: list[float]) -> list[int]:
        drawn = []
        for uniform in uniforms:
            probabilities = self.probabilities()
            threshold, cumulated, slot = (1 - uniform) * sum(probabilities), 0.0, 0
            for slot in range(self.capacity):
                cumulated += probabilities[slot]
                if cumulated >= threshold:
                    break
            drawn.append(slot)
            for i in range(self.capacity):
                if self.filled[i]:
                    self.ages[i] += 1
            self.ages[slot] = 0
        return drawn

    def update(
        self,
        names: list[int],
        slots: list[int],
        parents: list[int],
        scores: list[float],
        maxima: list[float],
        valid: list[bool],
    ) -> None:
        before = list(self.mutations)
        touched = [False] * self.capacity
        for item, name in enumerate(names):
            if not valid[item] or scores[item] == -INF:
                continue
            slot = slots[item]
            if slot < 0:
                probabilities = self.probabilities()
                free = [i for i in range(self.capacity) if not self.filled[i]]
                slot = free[0] if free else probabilities.index(min(probabilities))
            if slots[item] >= 0 and not touched[slot]:
                self.scores[slot], self.maxima[slot] = scores[item], maxima[item]
            elif scores[item] >= self.scores[slot]:
                self.names[slot], self.scores[slot], self.maxima[slot] = name, scores[item], maxima[item]
                self.filled[slot] = touched[slot] = True
                if self.refresh_age:
                    self.ages[slot] = 0
                if slots[item] >= 0:
                    self.mutations[slot] = before[slot]
                else:
                    self.mutations[slot] = before[parents[item]] + 1 if parents[item] >= 0 else 0
