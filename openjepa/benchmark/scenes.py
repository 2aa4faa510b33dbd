"""How fast `scenes` renders on one core: what a loader's worker can hope for without a cache.

No section of the paper.
"""

from __future__ import annotations

import time

from openjepa.data.scenes import SIZE, render


def images_per_second(size: tuple[int, int] = SIZE, seconds: float = 5.0) -> float:
    """Images of `size` (height, width) rendered per second by this process, over `seconds` of the clock.

    Run it with OMP_NUM_THREADS=1 and OPENBLAS_NUM_THREADS=1, or numpy may use other cores. The first image
    is not counted: it fills numpy's and our own small caches.
    """
    render(0, 0, size)
    num_images, start = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - start) < seconds:
        num_images += 1
        render(0, num_images, size)
    return num_images / elapsed
