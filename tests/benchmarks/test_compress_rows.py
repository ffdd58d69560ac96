"""The benchmark of compressing measures what it says."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("faiss")

import compress


def test_rows_of_a_small_set() -> None:
    x = compress.generated(1500, 16)
    np.testing.assert_allclose(np.linalg.norm(x, axis=1), 1, rtol=1e-5)
    rows = list(compress.rows_of("small", x, "recall@5=0.9"))
    assert [row["way"] for row in rows] == [
        *("exact", "SQ8", "SQ4", "fewest", "reranked", "capped", "fastest")
    ]
    by_way = {row["way"]: row for row in rows}
    assert by_way["exact"]["bytes"] == 64
    assert by_way["exact"]["recall"] == 1
    assert {row["n"] for row in rows} == {1500 - 375}  # a quarter are queries
    assert by_way["SQ8"]["bytes"] == 16
    assert by_way["SQ8"]["recall"] > by_way["SQ4"]["recall"]
    assert by_way["fewest"]["bytes"] < 64
    for way in ("fewest", "reranked", "capped", "fastest"):
        foretold = by_way[way]["foretold"]
        assert foretold["bytes"] == pytest.approx(by_way[way]["bytes"], rel=0.1)
        assert foretold["recall"] == pytest.approx(by_way[way]["recall"], abs=0.02)
    assert all(row["per_second"] > 0 and row["alone_per_second"] > 0 for row in rows)
    table = compress.table(rows)
    assert len(table.splitlines()) == 9
    assert len({len(line) for line in table.splitlines()[2:]}) == 1
