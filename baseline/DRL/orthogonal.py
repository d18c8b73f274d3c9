"""The step of Muon (Jordan and others, 2024): a matrix, its singular values brought to 1."""

import torch

ROUNDS = 5
POLYNOMIAL = 3.4445, -4.7750, 2.0315  # of a singular value, odd; theirs: steep at 0, flat around 1


@torch.no_grad()
def orthogonal(matrix: torch.Tensor) -> torch.Tensor:
    """A matrix (N, K) with the same singular vectors and values of about 1 (0.7 to 1.2).

    Those below 0.0016 of the root of the sum of all squares stay smaller; 0 stays 0.  A
    Newton-Schulz step takes x to p(x x^T) x, p(y) = a + b y + c y^2; here they are taken on the
    Gram matrix x x^T of the shorter side, and the product of all p is applied to x in the end.
    """
    x = matrix / (matrix.norm() + 1e-12)
    if len(x) > x.shape[1]:
        return orthogonal(matrix.T).T
    gram, product = x @ x.T, None
    a, b, c = POLYNOMIAL
    identity = torch.eye(len(gram), dtype=x.dtype, device=x.device)
    for left in reversed(range(ROUNDS)):
        p = a * identity + b * gram + c * (gram @ gram)
        product = p if product is None else p @ product
        gram = p @ gram @ p if left else None
    return product @ x
