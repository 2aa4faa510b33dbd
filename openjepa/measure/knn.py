"""Weighted nearest-neighbour classification of frozen features, exact and in bounded memory.

The protocol of DINO (Caron et al. 2021, section 4.1): cosine similarity, and each of the k nearest
votes for its class with weight exp(similarity / temperature).
"""

from __future__ import annotations

import torch
from torch import Tensor

from openjepa.errors import ConfigError, sentence
from openjepa.measure import as_labels, check_features, unit_rows
from openjepa.measure.subset import Rows

K = 20
"""Neighbours that vote, as DINO reports."""
TEMPERATURE = 0.07
"""Similarity that multiplies a vote by e, as DINO's code sets it."""
CHUNK_SIZE = 2048
"""Rows and columns compared at a time: the fastest of 256 to 8192 on two CPU cores."""


def knn_predict(
    bank: Rows,
    bank_labels: Tensor,
    queries: Rows,
    num_classes: int,
    k: int = K,
    temperature: float = TEMPERATURE,
    chunk_size: int = CHUNK_SIZE,
) -> Tensor:
    """The class of each query: bank (N, D), bank_labels (N,), queries (Q, D) to (Q,) int64.

    Ties: of neighbours whose computed similarity is equal, the first in the bank is nearer; of
    classes with equal votes, the smallest wins. Beside its arguments it holds a few matrices of
    `chunk_size` x `chunk_size` float64, whatever N and Q.
    Raises ConfigError for unusable settings, DataError for unusable features or labels.
    """
    check_features(bank, "bank")
    check_features(queries, "queries")
    bank_labels = as_labels(bank_labels, bank, num_classes, "bank_labels")
    mistakes = []
    if bank.shape[1] != queries.shape[1]:
        rule = f"must be the bank's, {bank.shape[1]}"
        remedy = "Encode both with one encoder."
        mistakes.append(sentence("width of queries", queries.shape[1], rule, remedy))
    if not 1 <= k <= len(bank):
        remedy = "Lower k, or put more labelled images in the bank."
        mistakes.append(sentence("k", k, f"must be 1 to the bank's size, {len(bank)}", remedy))
    if not temperature > 0:
        remedy = f"Try {TEMPERATURE}."
        mistakes.append(sentence("temperature", temperature, "must be above 0", remedy))
    if chunk_size < 1:
        mistakes.append(sentence("chunk_size", chunk_size, "must be above 0", f"Try {CHUNK_SIZE}."))
    if mistakes:
        raise ConfigError(mistakes)
    classes = []
    for some in queries.split(chunk_size):
        similarity, row = _nearest(unit_rows(some), bank, k, chunk_size)
        classes.append(_vote(similarity, bank_labels[row], num_classes, temperature))
    return torch.cat(classes)


def knn_accuracy(
    bank: Rows,
    bank_labels: Tensor,
    queries: Rows,
    query_labels: Tensor,
    num_classes: int,
    k: int = K,
    temperature: float = TEMPERATURE,
    chunk_size: int = CHUNK_SIZE,
) -> float:
    """Share, 0 to 1, of the queries (Q, D) that `knn_predict` puts in their class (Q,)."""
    truth = as_labels(query_labels, queries, num_classes, "query_labels")
    guess = knn_predict(bank, bank_labels, queries, num_classes, k, temperature, chunk_size)
    return float((guess == truth).double().mean())


def _nearest(queries: Tensor, bank: Rows, k: int, chunk_size: int) -> tuple[Tensor, Tensor]:
    """Similarity, largest first, and bank row, each (Q, k), of what is nearest to unit queries."""
    similarity = queries.new_empty(len(queries), 0)
    row = torch.empty_like(similarity, dtype=torch.long)
    for first in range(0, len(bank), chunk_size):
        some = unit_rows(bank[first : first + chunk_size])
        some_rows = torch.arange(first, first + len(some), device=queries.device)
        # The best so far stand in front: they come from earlier rows, so they must win ties.
        similarity = torch.cat([similarity, queries @ some.T], dim=1)
        row = torch.cat([row, some_rows.expand(len(queries), -1)], dim=1)
        similarity, column = _largest(similarity, k)
        row = row.gather(1, column)
    return similarity, row


def _largest(values: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """As `torch.topk` on the rows of (Q, M), but at most M, and of equals the first column wins."""
    k = min(k, values.shape[1])
    largest, column = values.topk(min(k + 1, values.shape[1]), dim=1)
    tied = (largest[:, 1:] == largest[:, :-1]).any(dim=1)
    if tied.any():
        # topk promises no order among equals. A stable sort does, at several times the price.
        order = values[tied].sort(dim=1, descending=True, stable=True).indices
        column[tied] = order[:, : column.shape[1]]
    return largest[:, :k], column[:, :k]


def _vote(similarity: Tensor, labels: Tensor, num_classes: int, temperature: float) -> Tensor:
    """Similarities, largest first, and labels, each (Q, k), to the class (Q,) with most weight."""
    # Relative to the nearest: a factor common to all classes, and no temperature overflows.
    weights = ((similarity - similarity[:, :1]) / temperature).exp()
    votes = similarity.new_zeros(len(similarity), num_classes)
    query = torch.arange(len(similarity), device=similarity.device)
    for label, weight in zip(labels.T, weights.T, strict=True):
        votes[query, label] += weight  # neighbour by neighbour, so that the order of a sum is fixed
    return votes.argmax(dim=1)
