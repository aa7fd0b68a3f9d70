"""Encoders in a process with many threads, and a cache of the vectors of recent texts."""

import threading
from collections import OrderedDict
from collections.abc import Sequence

import numpy as np

from hydra_ray.retrieve.dense import Floats
from hydra_ray.scorer.base.encoder import TextEncoder

ENCODING = threading.RLock()
"""Held while a model reads texts: two threads must not use a tokenizer at once, and one batch keeps all threads of
torch busy."""
MAX_KEPT_TEXTS = 100_000
"""Number of texts whose vectors stay in memory."""


class KeptVectors:
    """Encoder with a cache of the vectors of recent texts; for any number of threads."""

    def __init__(self, encoder: TextEncoder) -> None:
        self.encoder = encoder
        self._kept: OrderedDict[str, Floats] = OrderedDict()
        self._lock = threading.Lock()

    def __call__(self, texts: Sequence[str]) -> Floats:
        """Return the vectors of texts (N, H)."""
        distinct = list(dict.fromkeys(texts))
        with self._lock:
            found = {text: self._kept[text] for text in distinct if text in self._kept}
        new = [text for text in distinct if text not in found]
        if new:
            with ENCODING:
                encoded_NH = self.encoder(new)
            # Copied, since a row of a batch would keep all of the batch in memory.
            found |= {text: vector_H.copy() for text, vector_H in zip(new, encoded_NH, strict=True)}
        with self._lock:
            for text in distinct:
                self._kept[text] = found[text]
                self._kept.move_to_end(text)
            while len(self._kept) > MAX_KEPT_TEXTS:
                self._kept.popitem(last=False)
        return np.stack([found[text] for text in texts])
