"""The direct method: the error of whole paintings, carried back to every stroke."""

import torch

from Renderer.canvas import as_float, composite
from test_training import go_on, training_of


def test_all_of_a_direct_rounds_bundles_are_learnt_from_once(checkout, monkeypatch):
    """And with the gradients that autograd finds for whole paintings."""
    training = training_of(checkout, "--method", "direct", "--early", 0.5, memory=False)
    source, method = training.source, training.method
    go_on(training, 6)  # 3 bundles painted and carried back through
    canvas = torch.zeros(2, 3, 128, 128)
    target, loss, actions = as_float(source.env.target), 0, []
    for step in range(3):
        seen = as_float(source.canvases[step])
        assert (canvas.detach() - seen).abs().max() < 0.01  # 8 bits
        with torch.no_grad():
            action = method.actor(seen, target, torch.full((2,), step / 3))
        actions.append(action.requires_grad_())
        canvas = canvas + (seen - canvas).detach()
        canvas = composite(method.render, canvas, action)
        loss = loss + (0.5 if step < 2 else 1) * (canvas - target).square().mean((1, 2, 3)).sum()
    for mine, its in zip(source.actions, torch.autograd.grad(loss, actions), strict=True):
        assert torch.allclose(mine, its, rtol=0.05, atol=0.02 * its.abs().max().item())
    learnt = []
    monkeypatch.setattr(training, "update", lambda batch, target: learnt.extend(
        zip(batch.step.tolist(), batch.image.tolist(), strict=True)))
    images = source.env.image.tolist()
    go_on(training, 3)
    assert sorted(learnt) == sorted((step, image) for step in range(3) for image in images)
    assert source.between_rounds
