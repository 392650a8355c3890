"""Cross-validation: nothing is scored by what has seen its source."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent.parent


def test_no_source_is_scored_by_what_was_fitted_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "training"))
    from midstream_training import choose
    from midstream_training.examples import Examples, Ordered
    from midstream_training.views import Seen

    fitted: list[set[float]] = []

    class Recording:
        """Answers 1 where the source, which is the only feature, was fitted, 0 where it was not."""

        @staticmethod
        def fit(features: np.ndarray, targets: np.ndarray) -> Recording:
            fitted.append(set(features[:, 0].tolist()))
            return Recording()

        def __call__(self, features: np.ndarray) -> np.ndarray:
            return np.isin(features[:, 0], list(fitted[-1])).astype(np.float64)

    monkeypatch.setattr(choose, "Linear", Recording)
    sources = np.arange(60) % 17
    views, features = np.zeros((60, 1), np.float32), sources[:, np.newaxis].astype(np.float32)
    seen = Seen(views, features)
    scores = choose.crossed(
        "image",
        None,
        Examples(seen, np.zeros(60, np.float32), np.zeros(60), sources),
        Ordered(seen, seen, np.full(60, "blur"), sources),
    )
    assert len(fitted) == 3
    assert set.union(*fitted) == set(range(17))
    assert not np.concatenate([scores.examples, scores.less, scores.more]).any()
