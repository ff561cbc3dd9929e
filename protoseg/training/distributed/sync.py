"""A segmentor made fit for several processes: together they compute what one would.

Each process sees a part of the batch. Batch norms take their statistics over the pixels of all
processes, and the losses of mmseg's heads are means over the valid pixels of all; the heads of
`protoseg.models` see to their own losses and prototypes.
"""

from __future__ import annotations

import functools
import warnings
from typing import Any

import torch
from mmengine.model import MMDistributedDataParallel
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from protoseg.core.collective import all_sum, all_sum_with_gradient, world_size
from protoseg.errors import UsageError


class SharedBatchNorm(_BatchNorm):
    """Batch norm over the pixels of all processes, on any device.

    torch's ``SyncBatchNorm`` computes the same on GPUs, faster, and refuses to work on a CPU.
    """

    def _check_input_dim(self, input: Tensor) -> None:
        """Any number of axes after the channels."""

    def forward(self, input: Tensor) -> Tensor:
        """``input`` (B, C, ...) normalised a channel; running statistics where not training."""
        if not self.training or world_size() == 1:
            result: Tensor = super().forward(input)
            return result
        axes = [axis for axis in range(input.dim()) if axis != 1]
        shape = [1, -1, *([1] * (input.dim() - 2))]
        wide = input.to(torch.promote_types(input.dtype, torch.float))
        count = torch.tensor([wide.numel() // wide.shape[1]], device=wide.device)
        count = all_sum(count.double())
        sums = all_sum_with_gradient(wide.sum(axes, dtype=torch.float64))
        mean = (sums / count).to(wide.dtype)
        centred = wide - mean.view(shape)
        # The squares of the centred values: E[x²] - E[x]² would cancel.
        squares = all_sum_with_gradient(centred.square().sum(axes, dtype=torch.float64))
        variance = squares / count
        self._track(mean.detach(), (squares / (count - 1)).detach())
        centred = centred * (variance + self.eps).rsqrt().to(wide.dtype).view(shape)
        if self.weight is not None:
            centred = centred * self.weight.view(shape)
        if self.bias is not None:
            centred = centred + self.bias.view(shape)
        return centred.to(input.dtype)

    @torch.no_grad()
    def _track(self, mean: Tensor, variance: Tensor) -> None:
        seen = self.num_batches_tracked
        if self.running_mean is None or self.running_var is None or seen is None:
            return
        seen.add_(1)
        momentum = 1 / float(seen) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), momentum)
        self.running_var.lerp_(variance.to(self.running_var.dtype), momentum)


def share(model: nn.Module) -> None:
    """Change a segmentor, before its optimiser is made, so that processes can share a batch.

    Raises:
        UsageError: a loss that is no mean over pixels, which parts of a batch can not compute.
    """
    on_gpu = next(model.parameters()).is_cuda
    synchronise_norms(model, nn.SyncBatchNorm if on_gpu else SharedBatchNorm)
    for head in model.modules():
        if isinstance(head, BaseDecodeHead):
            _check_losses(head)
            # mmseg divides by the pixels of its own part; there is no hook where it counts.
            head.loss_by_feat = functools.partial(_over_all_pixels, head, head.loss_by_feat)


def wrap(model: nn.Module) -> MMDistributedDataParallel:
    """The segmentor in torch's DDP, which averages the gradients of the processes."""
    devices = [torch.cuda.current_device()] if next(model.parameters()).is_cuda else None
    # A decoder may leave feature maps of its backbone unused. Besides, with this setting torch
    # never regroups the gradients, so that a resumed run sums them in the same order.
    with warnings.catch_warnings():
        # Newer ones call it `forward_sync_buffers`, older ones know nothing of that.
        warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated", FutureWarning)
        return MMDistributedDataParallel(
            model, device_ids=devices, broadcast_buffers=False, find_unused_parameters=True
        )


def synchronise_norms(module: nn.Module, kind: type[_BatchNorm]) -> None:
    """Put a ``kind`` in place of every batch norm below ``module``, with its very parameters."""
    for name, child in module.named_children():
        if not isinstance(child, _BatchNorm):
            synchronise_norms(child, kind)
            continue
        # Sizes alone are made anew (on "meta", for nothing); the tensors are the child's own.
        norm = kind(
            child.num_features,
            child.eps,
            child.momentum,
            child.affine,
            child.track_running_stats,
            device="meta",
        )
        norm._parameters.update(child._parameters)
        norm._buffers.update(child._buffers)
        norm.train(child.training)
        setattr(module, name, norm)


def _over_all_pixels(
    head: BaseDecodeHead, original: Any, seg_logits: Tensor, batch_data_samples: list[Any]
) -> dict[str, Tensor]:
    """What a head makes of its part, rescaled so that the mean over the processes is the batch's.

    The losses, and mmseg's ``acc_seg``, are means over the valid pixels of a part.
    """
    losses: dict[str, Tensor] = original(seg_logits, batch_data_samples)
    labels = head._stack_batch_gt(batch_data_samples)
    mine = (labels != head.ignore_index).sum()
    part = mine * world_size() / all_sum(mine).clamp_min(1)
    return {name: value * part for name, value in losses.items()}


def _check_losses(head: BaseDecodeHead) -> None:
    given = head.loss_decode
    losses = list(given) if isinstance(given, nn.ModuleList) else [given]
    losses += [m for n, m in head.named_children() if n.startswith("loss") and n != "loss_decode"]
    for loss in losses:
        name = type(loss).__name__
        plain = name == "CrossEntropyLoss" and not loss.use_mask and loss.class_weight is None
        if not plain or not loss.avg_non_ignore or loss.reduction != "mean":
            raise UsageError(
                f"decoder.settings: {name} as it is set here is no mean over valid pixels, so "
                "several processes can not compute together what one would; train with one "
                "process, or with a CrossEntropyLoss without class weights."
            )
    if head.sampler is not None:
        raise UsageError(
            f"decoder.settings: {type(head.sampler).__name__} picks pixels out of a whole batch, "
            "which several processes can not do together; train with one process, or without it."
        )
