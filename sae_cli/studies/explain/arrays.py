"""Short names of the kinds of arrays that this study handles."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Acts = NDArray[np.float32]
Flags = NDArray[np.bool_]
Tokens = NDArray[np.int32]
Hashes = NDArray[np.uint64]
