"""Torch twins of what text-to-3D tools otherwise take from CUDA-only libraries.

Volume rendering and the occupancy grid (:mod:`~backends.volrend`, :mod:`~backends.occupancy`; nerfacc's interface),
encodings and small networks (:mod:`~backends.encodings`, :mod:`~backends.networks`; tiny-cuda-nn's interface),
rasterisation (:mod:`backends.raster`). They run on any device torch has, know nothing of threestudio, and
:mod:`backends.select` prefers the CUDA libraries where those work.
"""
