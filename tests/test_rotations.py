"""Rotations against scipy, and their values and gradients where textbook formulas divide by zero."""

import math

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from handnet.rotations import (
    axis_angle_to_matrix,
    matrix_to_axis_angle,
    matrix_to_quaternion,
    matrix_to_rotation_6d,
    rodrigues,
    rotation_6d_to_matrix,
)


def vectors(num: int = 400, seed: int = 0) -> np.ndarray:
    """Rotation vectors with angles from 1e-9 to 2 pi, denser at the small end and around the series' threshold."""
    rng = np.random.default_rng(seed)
    quarter = num // 4
    tiny = 10.0 ** rng.uniform(-9, 0, 2 * quarter)
    angles = np.concatenate([tiny, rng.uniform(0.05, 0.15, quarter), rng.uniform(0, 2 * math.pi, quarter)])
    axes = rng.standard_normal((4 * quarter, 3))
    return axes / np.linalg.norm(axes, axis=1, keepdims=True) * angles[:, None]


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-14), (torch.float32, 1e-6)])
def test_axis_angle_to_matrix_equals_scipy(dtype, tolerance):
    v = vectors()
    got = axis_angle_to_matrix(torch.tensor(v, dtype=dtype))
    assert got.dtype == dtype
    assert np.abs(got.numpy() - Rotation.from_rotvec(v).as_matrix()).max() < tolerance


def test_axis_angle_to_matrix_has_the_generators_as_gradient_at_zero():
    jacobian = torch.autograd.functional.jacobian(axis_angle_to_matrix, torch.zeros(3, dtype=torch.float64))
    levi_civita = torch.zeros(3, 3, 3, dtype=torch.float64)
    for a, b, c in ((0, 1, 2), (1, 2, 0), (2, 0, 1)):
        levi_civita[a, b, c], levi_civita[a, c, b] = -1, 1
    assert torch.allclose(jacobian, levi_civita, atol=1e-15)


@pytest.mark.parametrize("scale", [0.0, 1e-6, 0.0999, 0.1001, 1.0, math.pi, 5.0])
def test_axis_angle_to_matrix_gradcheck(scale):
    v = torch.tensor([[0.6, -0.64, 0.48]], dtype=torch.float64) * scale
    assert torch.autograd.gradcheck(axis_angle_to_matrix, v.requires_grad_())


@pytest.mark.parametrize("scale", [1e-4, 1.0, 3.0])
def test_axis_angle_to_matrix_second_derivatives(scale):
    v = torch.tensor([[0.6, -0.64, 0.48], [0.0, 0.1, 0.2]], dtype=torch.float64) * scale
    assert torch.autograd.gradgradcheck(axis_angle_to_matrix, v.requires_grad_())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_written_derivative_of_axis_angle_equals_autograds(dtype):
    v = torch.tensor(vectors(), dtype=dtype)
    grad = torch.randn(len(v), 3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = []
    for function, given in ((axis_angle_to_matrix, v), (lambda x: rodrigues(x).matrix, v.double())):
        x = given.clone().requires_grad_()
        function(x).backward(grad.to(x.dtype))
        found.append(x.grad.double())
    assert (found[0] - found[1]).abs().max() < (5e-6 if dtype == torch.float32 else 1e-9)


def test_round_trip_below_pi():
    v = vectors(seed=1)
    v = v[np.linalg.norm(v, axis=1) < math.pi - 1e-3]
    back = matrix_to_axis_angle(axis_angle_to_matrix(torch.tensor(v)))
    assert np.abs(back.numpy() - v).max() < 1e-12


@pytest.mark.parametrize("gap", [0.0, 1e-9, 1e-5, 1e-2])
def test_axis_angle_near_half_turns(gap):
    rng = np.random.default_rng(2)
    axes = np.concatenate([np.eye(3), -np.eye(3), rng.standard_normal((50, 3))])
    v = axes / np.linalg.norm(axes, axis=1, keepdims=True) * (math.pi - gap)
    matrix = torch.tensor(Rotation.from_rotvec(v).as_matrix())
    back = matrix_to_axis_angle(matrix)
    assert torch.allclose(back.norm(dim=1), torch.full((len(v),), math.pi - gap, dtype=torch.float64), atol=1e-7)
    assert torch.allclose(axis_angle_to_matrix(back), matrix, atol=1e-7)
    if gap >= 1e-5:  # the sign of the axis is defined
        assert np.abs(back.numpy() - v).max() < 1e-7


@pytest.mark.parametrize("scale", [0.0, 1e-5, 0.02, 1.0, 2.0, 3.0])
def test_matrix_to_axis_angle_gradcheck(scale):
    """Through axis_angle_to_matrix, so that the perturbed matrices stay rotations: the Jacobian must be the identity."""
    v = torch.tensor([0.6, -0.64, 0.48], dtype=torch.float64) * scale
    jacobian = torch.autograd.functional.jacobian(lambda x: matrix_to_axis_angle(axis_angle_to_matrix(x)), v)
    assert torch.allclose(jacobian, torch.eye(3, dtype=torch.float64), atol=1e-9)


def test_quaternion_equals_scipy_for_every_branch():
    rotations = Rotation.random(200, random_state=3)
    expected = rotations.as_quat(canonical=True)[:, [3, 0, 1, 2]]
    got = matrix_to_quaternion(torch.tensor(rotations.as_matrix())).numpy()
    assert np.abs(got - expected).max() < 1e-12


def test_6d_is_orthonormal_and_inverts():
    torch.manual_seed(0)
    matrix = rotation_6d_to_matrix(torch.randn(5, 7, 6, dtype=torch.float64))
    assert torch.allclose(matrix @ matrix.mT, torch.eye(3, dtype=torch.float64).expand(5, 7, 3, 3), atol=1e-12)
    assert torch.allclose(torch.linalg.det(matrix), torch.ones(5, 7, dtype=torch.float64))
    assert torch.allclose(rotation_6d_to_matrix(matrix_to_rotation_6d(matrix) * 3.0), matrix, atol=1e-12)


@pytest.mark.parametrize("value", [torch.zeros(6), torch.tensor([1.0, 2, 3, 1, 2, 3])])
def test_6d_of_degenerate_input_is_finite(value):
    value = value.clone().requires_grad_()
    matrix = rotation_6d_to_matrix(value)
    matrix.sum().backward()
    assert torch.isfinite(matrix).all()
    assert torch.isfinite(value.grad).all()


@pytest.mark.parametrize(
    ("function", "shape"),
    [(axis_angle_to_matrix, (2, 4)), (matrix_to_axis_angle, (3, 2)), (rotation_6d_to_matrix, (2, 3)), (matrix_to_rotation_6d, (9,))],
)
def test_wrong_shapes_are_named(function, shape):
    with pytest.raises(ValueError, match=r"expected shape .*got"):
        function(torch.zeros(shape))
