"""Dense and hashed grids against naive implementations, polynomials they must reproduce, and numeric derivatives."""

import itertools
import math

import pytest
import torch

from backends.dense_grid import DenseGridPyramid, refine
from backends.hash_grid import HashGrid
from backends.interpolation import trilinear


def nodes_of(*resolution):
    return torch.stack(
        torch.meshgrid(*[torch.linspace(0, 1, r, dtype=torch.float64) for r in resolution], indexing="ij"), -1
    )


def polynomial(points):
    """Linear in each coordinate: what trilinear interpolation reproduces exactly."""
    x, y, z = points.unbind(-1)
    return torch.stack([1 + 2 * x - y + 0.5 * z, x * y * z - 3 * x * z], -1)


def test_trilinear_reproduces_trilinear_polynomials():
    points = torch.rand(200, 3, dtype=torch.float64)
    points[:8] = torch.tensor(list(itertools.product([0.0, 1.0], repeat=3)))  # the faces belong to the cube
    torch.testing.assert_close(trilinear(polynomial(nodes_of(3, 4, 6)), points), polynomial(points))


def test_trilinear_equals_a_loop_and_clamps():
    grid = torch.rand(3, 4, 5, 2, dtype=torch.float64)
    points = torch.rand(50, 3, dtype=torch.float64) * 1.4 - 0.2
    for point, value in zip(points.tolist(), trilinear(grid, points)):
        cells, shares = [], []
        for x, nodes in zip(point, (3, 4, 5)):
            position = min(max(x, 0.0), 1.0) * (nodes - 1)
            cells.append(min(int(position), nodes - 2))
            shares.append(position - cells[-1])
        expected = torch.zeros(2, dtype=torch.float64)
        for corner in itertools.product([0, 1], repeat=3):
            weight = math.prod(s if c else 1 - s for s, c in zip(shares, corner))
            expected += weight * grid[tuple(i + c for i, c in zip(cells, corner))]
        torch.testing.assert_close(value, expected)


def test_trilinear_gradients_first_and_second():
    grid = torch.rand(3, 3, 4, 2, dtype=torch.float64, requires_grad=True)
    # strictly inside cells: at their faces the interpolant has a kink
    points = ((torch.rand(6, 3, dtype=torch.float64) * 0.8 + 0.1 + torch.randint(2, (6, 3))) / 3).requires_grad_()
    assert torch.autograd.gradcheck(trilinear, (grid, points))
    assert torch.autograd.gradgradcheck(trilinear, (grid, points))


def test_gradients_do_not_depend_on_chance_with_two_threads():
    grid = torch.rand(17, 17, 17, 4, requires_grad=True)
    points, cotangent = torch.rand(20000, 3), torch.randn(20000, 4)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        first, *others = (torch.autograd.grad(trilinear(grid, points), grid, cotangent)[0] for _ in range(4))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(first, other) for other in others)


def test_refined_grid_is_the_same_function():
    grid = torch.rand(3, 4, 2, 2, dtype=torch.float64)
    finer = refine(grid)
    assert finer.shape == (5, 7, 3, 2)
    points = torch.rand(100, 3, dtype=torch.float64)
    torch.testing.assert_close(trilinear(finer, points), trilinear(grid, points))


def test_pyramid_is_the_sum_of_its_levels():
    pyramid = DenseGridPyramid(3, {"n_levels": 3, "base_resolution": 2, "n_features_per_level": 4, "init_std": 1.0})
    assert [tuple(level.shape) for level in pyramid.levels] == [(3, 3, 3, 4), (5, 5, 5, 4), (9, 9, 9, 4)]
    assert pyramid.n_output_dims == 4
    points = torch.rand(100, 3)
    torch.testing.assert_close(pyramid(points), sum(trilinear(level, points) for level in pyramid.levels))
    pyramid.n_active_levels = 2
    torch.testing.assert_close(pyramid(points), sum(trilinear(level, points) for level in pyramid.levels[:2]))


def test_pyramid_gradient_reaches_every_level():
    pyramid = DenseGridPyramid(3, {"n_levels": 2, "base_resolution": 2, "n_features_per_level": 1}).double()
    points = torch.rand(5, 3, dtype=torch.float64)

    def features(*levels):
        return torch.func.functional_call(pyramid, {f"levels.{i}": level for i, level in enumerate(levels)}, (points,))

    assert torch.autograd.gradcheck(features, tuple(level.detach().requires_grad_() for level in pyramid.levels))


def naive_hash_grid(grid: HashGrid, config: dict, point: list[float]) -> list[float]:
    """One point, plain Python integers with 32-bit wrap-around."""
    features, start = [], 0
    width, dims = config["n_features_per_level"], len(point)
    for level in range(config["n_levels"]):
        scale = config["base_resolution"] * config["per_level_scale"] ** level - 1
        nodes = math.ceil(scale) + 1
        size = min(math.ceil(nodes**dims / 8) * 8, 2 ** config["log2_hashmap_size"])
        positions = [x * scale + 0.5 for x in point]
        cells = [math.floor(p) for p in positions]
        total = [0.0] * width
        for corner in itertools.product([0, 1], repeat=dims):
            node = [c + o for c, o in zip(cells, corner)]
            weight = math.prod((p - c) if o else 1 - (p - c) for p, c, o in zip(positions, cells, corner))
            if nodes**dims <= size:
                row = sum(n * nodes**axis for axis, n in enumerate(node))
            else:
                row = 0
                for n, prime in zip(node, (1, 2654435761, 805459861)):
                    row ^= (n * prime) & 0xFFFFFFFF
            row = (start + row % size) * width
            total = [t + weight * grid.params[row + i].item() for i, t in enumerate(total)]
        features += total
        start += size
    assert start * width == len(grid.params)
    return features


@pytest.mark.parametrize("dims", [2, 3])
def test_hash_grid_equals_a_naive_one(dims):
    config = {
        "n_levels": 4,
        "n_features_per_level": 2,
        "log2_hashmap_size": 6,
        "base_resolution": 3,
        "per_level_scale": 1.7,
    }
    grid = HashGrid(dims, config)
    torch.nn.init.normal_(grid.params)
    assert any(grid.hashed) and not all(grid.hashed)
    points = torch.rand(30, dims)
    expected = torch.tensor([naive_hash_grid(grid, config, point) for point in points.tolist()])
    torch.testing.assert_close(grid(points), expected, atol=1e-5, rtol=1e-5)


def test_hash_grid_gradients():
    grid = HashGrid(3, {"n_levels": 2, "log2_hashmap_size": 4, "base_resolution": 2, "interpolation": "Smoothstep"})
    params = torch.rand(len(grid.params), dtype=torch.float64, requires_grad=True)
    points = torch.rand(4, 3, dtype=torch.float64, requires_grad=True)

    def features(params, points):
        return torch.func.functional_call(grid, {"params": params}, (points,))

    assert torch.autograd.gradcheck(features, (params, points))


def test_default_hash_grid_has_tiny_cuda_nns_size():
    config = {
        "n_levels": 16,
        "n_features_per_level": 2,
        "log2_hashmap_size": 19,
        "base_resolution": 16,
        "per_level_scale": 1.447269237440378,
    }
    # the length of the parameter vector in checkpoints made with that library
    assert len(HashGrid(3, config).params) == 12_599_920


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"interpolation": "Cubic"}, "interpolation=Cubic; choices: Linear, Smoothstep"),
        ({"type": "Tiled"}, "type=Tiled; choices: Hash, Dense"),
    ],
)
def test_hash_grid_names_bad_values(config, message):
    with pytest.raises(ValueError, match=message):
        HashGrid(3, config)
