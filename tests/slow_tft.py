"""The temporal fusion transformer in numpy, written from the paper's equations, with the weights of a module."""

from typing import Any

import numpy as np
from torch import nn

Array = np.ndarray


def forward(module: nn.Module, x: Array, *, known: list[int], static: list[int], nhead: int) -> Array:
    """Return the outputs (B, outputs) for windows (B, T, F), in float64 and one window and bar at a time."""
    weights = {name: each.detach().numpy().astype(float) for name, each in module.state_dict().items()}
    return np.stack([_Window(weights, each, known=known, static=static, nhead=nhead).predict() for each in x])


class _Window:
    """One window; the numbers of equations are those of Lim et al. 2021."""

    def __init__(self, weights: dict[str, Array], x: Array, **positions: Any) -> None:
        self.weights, self.x = weights, x.astype(float)
        self.known, self.static, self.nhead = (positions[name] for name in ("known", "static", "nhead"))
        self.temporal = [i for i in range(x.shape[1]) if i not in self.static]

    def predict(self) -> Array:
        chosen = self.select("static.variables", self.x[-1, self.static]) if self.static else None
        of_selection, of_enrichment, hidden, cell = (
            self.grn(f"static.{name}", chosen) if self.static else None
            for name in ("selection", "enrichment", "hidden", "cell")
        )
        steps = [self.select("selection", row[self.temporal], of_selection) for row in self.x]
        steps.append(self.select("known_selection", self.x[-1, self.known or self.temporal], of_selection))
        size = len(steps[0])
        state = (np.zeros(size), np.zeros(size)) if hidden is None or cell is None else (hidden, cell)
        states = []
        for number, step in enumerate(steps):  # the last step is the decoder's
            state = self.lstm("encoder" if number < len(self.x) else "decoder", step, *state)
            states.append(state[0])
        local = [self.gate("recurrence_gate", *each) for each in zip(states, steps, strict=True)]  # eq. 17
        enriched = [self.grn("enrichment", each, of_enrichment) for each in local]  # eq. 18
        attended = self.gate("attention_gate", self.attend(enriched), enriched[-1])  # eq. 19 and 20
        final = self.gate("output_gate", self.grn("feedforward", attended), local[-1])  # eq. 21 and 22
        return self.dense("head", final)

    def dense(self, name: str, x: Array) -> Array:
        return self.weights[f"{name}.weight"] @ x + self.weights.get(f"{name}.bias", 0.0)

    def norm(self, name: str, x: Array) -> Array:
        unit = (x - x.mean()) / np.sqrt(x.var() + 1e-5)
        return unit * self.weights[f"{name}.weight"] + self.weights[f"{name}.bias"]

    def grn(self, name: str, x: Array, context: Array | None = None) -> Array:
        """Return eq. 2 to 5."""
        inner = self.dense(f"{name}.first", x)
        if context is not None and f"{name}.context.weight" in self.weights:
            inner = inner + self.dense(f"{name}.context", context)
        return self.norm(f"{name}.norm", x + glu(self.dense(f"{name}.gate", self.dense(f"{name}.second", elu(inner)))))

    def gate(self, name: str, x: Array, skip: Array) -> Array:
        return self.norm(f"{name}.norm", skip + glu(self.dense(f"{name}.gate", x)))

    def select(self, name: str, x: Array, context: Array | None = None) -> Array:
        """Return eq. 6 to 8: the sum of the columns' embeddings by their weights."""
        scores = np.exp(self.grn(f"{name}.weights", x, context))
        own = [self.embed(name, column, value) for column, value in enumerate(x)]
        return np.sum([weight * each for weight, each in zip(scores / scores.sum(), own, strict=True)], axis=0)

    def embed(self, name: str, column: int, value: float) -> Array:
        parts = ("embedding", "embedding_bias", "first", "second", "gate", "biases")
        embedding, offset, first, second, gate, biases = (self.weights[f"{name}.{part}"][column] for part in parts)
        start = value * embedding + offset
        size = len(start)
        inner = elu(start @ first + biases[:size]) @ second + biases[size : 2 * size]
        return self.norm(f"{name}.norm", start + glu(inner @ gate + biases[2 * size :]))

    def lstm(self, name: str, x: Array, hidden: Array, cell: Array) -> tuple[Array, Array]:
        of = {part: self.weights[f"{name}.{part}_l0"] for part in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")}
        sums = of["weight_ih"] @ x + of["bias_ih"] + of["weight_hh"] @ hidden + of["bias_hh"]
        into, forget, new, out = np.split(sums, 4)
        cell = sigmoid(forget) * cell + sigmoid(into) * np.tanh(new)
        return sigmoid(out) * np.tanh(cell), cell

    def attend(self, states: list[Array]) -> Array:
        """Return eq. 13 to 16 for the last state: heads have their own weights of the states and share the values."""
        query = np.split(self.dense("attention.query", states[-1]), self.nhead)
        keys = [np.split(self.dense("attention.key", each), self.nhead) for each in states]
        values = np.stack([self.dense("attention.value", each) for each in states])
        heads = []
        for head, mine in enumerate(query):
            scores = np.exp([mine @ key[head] / np.sqrt(len(mine)) for key in keys])
            heads.append(scores / scores.sum() @ values)
        return self.dense("attention.out_proj", np.mean(heads, axis=0))


def sigmoid(x: Array) -> Array:
    return np.asarray(1 / (1 + np.exp(-x)))


def elu(x: Array) -> Array:
    return np.where(x > 0, x, np.expm1(x))


def glu(x: Array) -> Array:
    value, gate = np.split(x, 2)
    return np.asarray(value * sigmoid(gate))
