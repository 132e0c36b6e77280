"""The best one-to-one assignment of rows to columns, in numpy alone.

Tables have some tens of rows, so the shortest augmenting path of one row at a time suffices (Jonker and Volgenant 1987,
in the form of Crouse 2016): O(rows² · columns), with the inner loop over columns in numpy.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["assign"]


def assign(gains: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Choose pairs of rows and columns, each in one pair at most, of the largest total gain.

    Args:
        gains: (N, M) finite. A pair whose gain is not above 0 is never chosen.

    Returns:
        Rows, ascending, and their columns (K,).
    """
    if gains.shape[0] > gains.shape[1]:
        columns, rows = assign(gains.T)
        order = np.argsort(rows)
        return rows[order], columns[order]
    if not gains.size:
        return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
    columns = _cheapest(-np.maximum(gains, 0.0))
    rows = np.arange(len(gains))
    chosen = gains[rows, columns] > 0
    return rows[chosen], columns[chosen]


def _cheapest(costs: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return a column for each of N rows, all different, of the least total cost (N, M), N <= M."""
    count, width = costs.shape
    row_price, column_price = np.zeros(count), np.zeros(width)
    row_of = np.full(width, -1)
    for start in range(count):
        # Distances of columns from `start`, over rows that have a column already.
        distance, before = np.full(width, np.inf), np.full(width, start)
        done = np.zeros(width, dtype=bool)
        row, reached, passed = start, 0.0, [start]
        while True:
            through = reached + costs[row] - row_price[row] - column_price
            shorter = ~done & (through < distance)
            distance[shorter], before[shorter] = through[shorter], row
            column = int(np.where(done, np.inf, distance).argmin())
            reached = float(distance[column])
            done[column] = True
            if row_of[column] < 0:
                break
            row = int(row_of[column])
            passed.append(row)
        column_of = {int(row_of[k]): int(k) for k in np.flatnonzero(done) if row_of[k] >= 0}
        for row in passed:
            row_price[row] += reached - (distance[column_of[row]] if row in column_of else 0.0)
        column_price[done] += distance[done] - reached
        while True:
            row = int(before[column])
            row_of[column] = row
            if row == start:
                break
            column = int(column_of[row])
    columns = np.empty(count, dtype=np.int64)
    columns[row_of[row_of >= 0]] = np.flatnonzero(row_of >= 0)
    return columns
