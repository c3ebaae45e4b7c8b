"""The world is quick enough to feed a training, and reads the same in another process."""

import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor

import numpy as np

from uni_instruct_3d.shapes_world import sample_batch


def test_an_image_takes_milliseconds():
    sample_batch(0, 0, 1)  # loads the compiled kernels
    started = time.process_time()
    sample_batch(0, 0, 60)
    # 5.2 ms on one core of a 2-core machine; 300 images per second on two cores are 6.7. Twice that for slow machines.
    assert (time.process_time() - started) / 60 < 0.0134


def test_another_process_draws_the_same_items():
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        other = pool.submit(sample_batch, 9, 20, 3, 16).result()
    here = sample_batch(9, 20, 3, 16)
    assert other["caption"] == here["caption"]
    np.testing.assert_array_equal(other["image"], here["image"])
