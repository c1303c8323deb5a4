"""Generated series for tones.toml: five tones under noise, one of which each example is."""

from typing import Any

import numpy as np

LENGTH, TONES = 48, 5


def tones() -> dict[str, Any]:
    """2,000 training and 500 test series, float32 [n, 1, 48], and their tones, int64 [n].

    A series is a sine of 3 to 7 periods at a random phase, louder in the middle, under noise of deviation 1.
    """
    rng = np.random.default_rng(0)
    tone, t = rng.integers(0, TONES, 2500), np.arange(LENGTH) / LENGTH
    phase = rng.uniform(0, 2 * np.pi, (2500, 1))
    clean = np.sin(2 * np.pi * (3 + tone[:, None]) * t + phase) * np.hanning(LENGTH)
    heard = (clean + rng.normal(0, 1, clean.shape))[:, None].astype(np.float32)
    names = tuple(f"{3 + number} periods" for number in range(TONES))
    parts = {"train_inputs": heard[:2000], "train_targets": tone[:2000], "classes": names}
    return {**parts, "test_inputs": heard[2000:], "test_targets": tone[2000:]}
