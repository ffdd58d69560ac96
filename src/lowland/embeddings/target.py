"""What is asked for: a share of the true nearest neighbours, or as large a one as bytes allow."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from lowland.core.errors import InputError


@dataclass(frozen=True)
class Target:
    """Recall@k of at least `recall`; None: as much as possible.

    Recall@k is the mean over queries of the share of a query's k true nearest vectors that are
    among the k found.
    """

    k: int
    recall: float | None

    @classmethod
    def parse(cls, text: str) -> Target:
        """From ``"recall@10=0.99"`` or ``"recall@10"``.

        Raises:
            InputError: not of that form, no share in (0, 1], or k below 1.
        """
        if (alone := re.fullmatch(r"\s*recall@(\d{1,9})\s*", text)) and int(alone[1]) > 0:
            return cls(int(alone[1]), None)
        found = re.fullmatch(r"\s*recall@(\d+)\s*=\s*([^\s%]+)\s*(%?)\s*", text)
        try:
            k, share = (int(found[1]), float(found[2])) if found else (0, math.nan)
        except ValueError:
            k, share = 0, math.nan
        if found and k > 0 and (found[3] or 1 < share <= 100):
            raise InputError(f"target {text!r}: give a share, recall@{k}={share / 100:g}")
        if k < 1 or not 0 < share <= 1:
            raise InputError(
                f"target {text!r}: give recall@K=SHARE, K from 1, the share above 0 and up to 1, "
                "such as recall@10=0.99"
            )
        return cls(k, share)

    def __str__(self) -> str:
        return f"recall@{self.k}" + ("" if self.recall is None else f"={self.recall:g}")
