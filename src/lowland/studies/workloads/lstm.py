"""LSTM networks that train in stacks: `torch.nn.LSTM` itself does not run side by side."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class LSTM(nn.Module):
    """One layer of long short-term memory, from h = c = 0 on.

        i, f, g, o = W_x·x_t + b + W_h·h_{t-1},  cut in four
        c_t = σ(f)·c_{t-1} + σ(i)·tanh(g),  h_t = σ(o)·tanh(c_t)

    The function of `torch.nn.LSTM`, whose second bias is added to the first here, with its order of
    the gates and its initialisation, U(-1/√width, 1/√width).

    Args:
        inputs: numbers in an input.
        width: numbers in h and in c.

    Cost: O(width·(inputs + width)) per example and step.

    Source: S. Hochreiter and J. Schmidhuber, 1997, with the forget gate of F. Gers et al., 2000.
    """

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        bound = width**-0.5
        self.of_input = nn.Parameter(torch.empty(4 * width, inputs).uniform_(-bound, bound))
        self.of_state = nn.Parameter(torch.empty(4 * width, width).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(4 * width).uniform_(-bound, bound))

    def forward(self, x: Tensor) -> Tensor:
        """States (b, t, width) after each input, from inputs (b, t, inputs)."""
        given = x @ self.of_input.mT + self.bias  # the same for all steps: once for all of them
        back = self.of_state.mT
        h = c = x.new_zeros(())
        states = []
        for step, now in enumerate(given.unbind(1)):
            i, f, g, o = (now + h @ back if step else now).chunk(4, dim=-1)
            new = i.sigmoid() * g.tanh()
            c = f.sigmoid() * c + new if step else new
            h = o.sigmoid() * c.tanh()
            states.append(h)
        return torch.stack(states, 1)


class RowReader(nn.Module):
    """Classifies images (b, c, h, w) that it reads row by row, h steps of c·w numbers.

    Args:
        channels, columns: c and w.
        classes: number of logits.
        width: of the LSTM.
    """

    def __init__(self, channels: int, columns: int, classes: int, *, width: int) -> None:
        super().__init__()
        self.lstm = LSTM(channels * columns, width)
        self.head = nn.Linear(width, classes)
        nn.init.zeros_(self.head.bias)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (b, classes), of the state after the last row."""
        rows = images.transpose(1, 2).flatten(2)
        logits: Tensor = self.head(self.lstm(rows)[:, -1])
        return logits


class LanguageModel(nn.Module):
    """Guesses every next word of texts: embedding, LSTM, linear head.

    Args:
        words: number of tokens.
        width: of the embedding and of the LSTM.
    """

    def __init__(self, words: int, *, width: int) -> None:
        super().__init__()
        self.embedding = nn.Parameter(torch.empty(words, width).normal_(std=width**-0.5))
        self.lstm = LSTM(width, width)
        self.head = nn.Linear(width, words)
        nn.init.zeros_(self.head.bias)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits (b, t, words) of the word after each of tokens (b, t)."""
        logits: Tensor = self.head(self.lstm(self.embedding[tokens]))
        return logits
