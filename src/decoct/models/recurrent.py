"""Classifiers of sequences: an LSTM or a GRU, its last step or the mean of all, and a linear map.

LSTM: Sepp Hochreiter, Jürgen Schmidhuber: Long Short-Term Memory. Neural Computation 9(8), 1997.
GRU: Kyunghyun Cho, Bart van Merrienboer, Caglar Gulcehre, Dzmitry Bahdanau, Fethi Bougares, Holger Schwenk,
Yoshua Bengio: Learning Phrase Representations using RNN Encoder-Decoder for Statistical Machine Translation. EMNLP
2014, arXiv 1406.1078.
Both directions: Mike Schuster, Kuldip K. Paliwal: Bidirectional Recurrent Neural Networks. IEEE Transactions on Signal
Processing 45(11), 1997.

Differs: the LSTM has the forget gate of Gers 2000, and the GRU resets the state after it is multiplied and has a second
bias, as cuDNN does. The sequences of a batch have one length; what pads a shorter one is read like the rest.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor, nn

from decoct.errors import RecipeError

Pooling = Literal["last", "mean"]


def lstm_classifier(
    classes: int = 10,
    features: int = 40,
    hidden: int = 128,
    layers: int = 2,
    bidirectional: bool = False,
    pooling: Pooling = "last",
    vocabulary: int | None = None,
) -> RecurrentClassifier:
    """An LSTM: 220,426 parameters. Input (batch, time, 40), output logits (batch, classes).

    features: numbers a step. hidden: units a layer and direction. layers: one above the other.
    pooling: what is classified: "last", the state after the last step (after the first, for the direction backwards),
        or "mean", that of all steps.
    vocabulary: how many tokens there are; the input is then (batch, time) of their numbers, int64, each of which is
        embedded in `features` numbers.
    """
    rnn = nn.LSTM(features, hidden, layers, batch_first=True, bidirectional=bidirectional)
    return RecurrentClassifier(rnn, classes, pooling, vocabulary)


def gru_classifier(
    classes: int = 10,
    features: int = 40,
    hidden: int = 128,
    layers: int = 2,
    bidirectional: bool = False,
    pooling: Pooling = "last",
    vocabulary: int | None = None,
) -> RecurrentClassifier:
    """A GRU: 165,642 parameters. Input (batch, time, 40), output logits (batch, classes).

    The arguments are those of :func:`lstm_classifier`.
    """
    rnn = nn.GRU(features, hidden, layers, batch_first=True, bidirectional=bidirectional)
    return RecurrentClassifier(rnn, classes, pooling, vocabulary)


class RecurrentClassifier(nn.Module):
    """Logits of the pooled output of `rnn`, which reads the batch first."""

    def __init__(self, rnn: nn.LSTM | nn.GRU, classes: int, pooling: Pooling, vocabulary: int | None = None) -> None:
        super().__init__()
        if pooling not in get_args(Pooling):
            raise RecipeError(f'a recurrent classifier: pooling is {pooling!r}; "last" or "mean" is expected')
        self.embedding = nn.Identity() if vocabulary is None else nn.Embedding(vocabulary, rnn.input_size)
        self.rnn = rnn
        self.fc = nn.Linear(rnn.hidden_size * (2 if rnn.bidirectional else 1), classes)
        self.pooling = pooling

    def forward(self, x: Tensor) -> Tensor:
        y, _ = self.rnn(self.embedding(x))  # (batch, time, hidden), or twice hidden for both directions
        return self.fc(self.pooled(y))

    def pooled(self, y: Tensor) -> Tensor:
        """What is classified of the outputs (batch, time, channels): (batch, channels)."""
        if self.pooling == "mean":
            return y.mean(1)
        if not self.rnn.bidirectional:
            return y[:, -1]
        ahead, back = y.chunk(2, dim=2)
        return torch.cat((ahead[:, -1], back[:, 0]), dim=1)
