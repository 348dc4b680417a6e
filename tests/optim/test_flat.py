"""Tests of FlatCopy, which holds copies of many tensors in few buffers."""

import pytest
import torch

from sam_bench.optim.flat import FlatCopy


def tensors() -> list[torch.Tensor]:
    """Return tensors of several shapes, layouts and dtypes."""
    torch.manual_seed(0)
    return [
        torch.randn(3, 4),
        torch.randn(4, 3).t(),
        torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
        torch.randn(()),
        torch.arange(5),
        torch.tensor(7),
        torch.randn(6, dtype=torch.float64),
        torch.randn(5, 4)[:, ::2],
        torch.randn(4, 1).expand(4, 3),
        torch.empty(0, 3),
    ]


def test_flat_copy_has_values_shapes_and_layouts():
    originals = tensors()
    copies = FlatCopy(originals)
    assert len(copies.buffers) == 3
    for x, copy in zip(originals, copies.views, strict=True):
        assert copy.shape == x.shape and copy.dtype == x.dtype
        assert torch.equal(copy, x)
        assert copy.stride() == torch.empty_like(x).stride()
        assert any(copy.untyped_storage().data_ptr() == b.untyped_storage().data_ptr() for b in copies.buffers)


@pytest.mark.parametrize("keep", [True, False])
def test_keep_if_keeps_or_restores_any_layout(keep):
    originals = [x for x in tensors() if not (x.dim() and 0 in x.stride())]
    copies = FlatCopy(originals)
    changed = [(x + 1).contiguous() for x in originals]
    expected = [x.clone() for x in (changed if keep else originals)]

    copies_after = copies.keep_if(torch.tensor(keep), changed)

    for x, copy, value in zip(changed, copies_after.views, expected, strict=True):
        assert torch.equal(x, value)
        assert torch.equal(copy, value)


def test_zero_unless_replaces_what_is_not_finite():
    copies = FlatCopy([torch.tensor([1.0, float("nan")]), torch.tensor(float("inf"))])
    copies.zero_unless(torch.tensor(True))
    assert copies.views[1].isinf()
    copies.zero_unless(torch.tensor(False))
    assert all(not copy.any() for copy in copies.views)
