"""Synchronisation of a model over several processes: results equal those of one process.

Each process has a part of the batch. Batch norm statistics and the losses of mmseg's heads are
computed over the valid pixels of all processes. The heads of `protoseg.models` synchronise their
losses and prototypes themselves.
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

    torch's ``SyncBatchNorm`` computes the same, faster, but only on GPUs.
    """

    def _check_input_dim(self, input: Tensor) -> None:
        """Accept any number of axes after the channels."""

    def forward(self, input: Tensor) -> Tensor:
        """Normalise each channel; in evaluation with the running statistics.

        Args:
            input: (B, C, ...) on this process.

        Returns:
            The normalised input, (B, C, ...).
        """
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
        # Squares of centred values, because E[x²] - E[x]² suffers from cancellation.
        squares = all_sum_with_gradient(centred.square().sum(axes, dtype=torch.float64))
        variance = squares / count
        self._update_running(mean.detach(), (squares / (count - 1)).detach())
        centred = centred * (variance + self.eps).rsqrt().to(wide.dtype).view(shape)
        if self.weight is not None:
            centred = centred * self.weight.view(shape)
        if self.bias is not None:
            centred = centred + self.bias.view(shape)
        return centred.to(input.dtype)

    @torch.no_grad()
    def _update_running(self, mean: Tensor, variance: Tensor) -> None:
        """Update the running statistics with those of a batch, each (C,)."""
        num_batches = self.num_batches_tracked
        if self.running_mean is None or self.running_var is None or num_batches is None:
            return
        num_batches.add_(1)
        momentum = 1 / float(num_batches) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), momentum)
        self.running_var.lerp_(variance.to(self.running_var.dtype), momentum)


def synchronise_model(model: nn.Module) -> None:
    """Change a segmentor so that processes can share a batch; call it before the optimiser.

    Raises:
        UsageError: a loss that is not a mean over pixels, so parts of a batch cannot compute it.
    """
    on_gpu = next(model.parameters()).is_cuda
    synchronise_norms(model, nn.SyncBatchNorm if on_gpu else SharedBatchNorm)
    # DDP averages the gradients, which is the mean of the processes' means.
    unchanged = {
        id(wrapping.head)
        for wrapping in model.modules()
        if getattr(wrapping, "loss_reduction", "") == "per_process_mean"
    }
    for head in model.modules():
        if isinstance(head, BaseDecodeHead) and id(head) not in unchanged:
            _check_losses(head)
            # mmseg divides by the pixels of this process, and has no hook to change that number.
            head.loss_by_feat = functools.partial(_rescale_losses, head, head.loss_by_feat)


def wrap_model(model: nn.Module) -> MMDistributedDataParallel:
    """Wrap a segmentor in torch's DDP, which averages the gradients of the processes."""
    devices = [torch.cuda.current_device()] if next(model.parameters()).is_cuda else None
    # `find_unused_parameters`: a decoder may not use all feature maps of its backbone. It also
    # keeps torch from regrouping gradients, so that a resumed run sums them in the same order.
    with warnings.catch_warnings():
        # Newer versions of torch call the argument `forward_sync_buffers`; older ones lack that.
        warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated", FutureWarning)
        return MMDistributedDataParallel(
            model, device_ids=devices, broadcast_buffers=False, find_unused_parameters=True
        )


def synchronise_norms(module: nn.Module, norm_class: type[_BatchNorm]) -> None:
    """Replace every batch norm below ``module`` by a ``norm_class`` that keeps its tensors.

    Raises:
        UsageError: a batch norm that computes something else, too.
    """
    for name, child in module.named_children():
        if not isinstance(child, _BatchNorm):
            synchronise_norms(child, norm_class)
            continue
        # Created on "meta", so nothing is allocated; the tensors of the old norm are kept.
        norm = _choose_class(child, norm_class)(
            child.num_features,
            child.eps,
            child.momentum,
            child.affine,
            child.track_running_stats,
            device="meta",
        )
        norm._parameters.update(child._parameters)
        norm._buffers.update(child._buffers)
        norm._modules.update(child._modules)
        norm.train(child.training)
        setattr(module, name, norm)


def _choose_class(norm: _BatchNorm, norm_class: type[_BatchNorm]) -> type[_BatchNorm]:
    """Return ``norm_class``, with the activation of a batch norm of timm that has one."""
    if type(norm).forward in (_BatchNorm.forward, nn.SyncBatchNorm.forward, norm_class.forward):
        return norm_class
    if set(norm._modules) == {"drop", "act"}:
        return _add_activation(norm_class)
    raise UsageError(
        f"backbone: {type(norm).__name__} is a batch norm that several processes cannot share. "
        "Train in one process, or choose another backbone."
    )


def _add_activation(norm_class: type[_BatchNorm]) -> type[_BatchNorm]:
    class ActivatedNorm(norm_class):  # type: ignore[misc, valid-type]
        """A batch norm, dropout and activation, as ``BatchNormAct2d`` of timm."""

        def forward(self, features: Tensor) -> Tensor:
            activated: Tensor = self.act(self.drop(super().forward(features)))
            return activated

    return ActivatedNorm


def _rescale_losses(
    head: BaseDecodeHead, original: Any, seg_logits: Tensor, batch_data_samples: list[Any]
) -> dict[str, Tensor]:
    """Compute a head's losses, scaled so that their mean over the processes is that of the batch.

    The head's losses, and mmseg's ``acc_seg``, are means over the valid pixels of its part. With
    class weights a loss is the weighted mean.
    """
    losses: dict[str, Tensor] = original(seg_logits, batch_data_samples)
    labels = head._stack_batch_gt(batch_data_samples)
    labels = labels[labels != head.ignore_index]
    count = torch.tensor(len(labels), device=labels.device)
    class_weight = _list_losses(head)[0].class_weight
    total = count
    if class_weight is not None:
        total = torch.tensor(class_weight, dtype=torch.double, device=labels.device)[labels].sum()
    scale = {"loss": _get_share(total), "acc": _get_share(count)}
    return {
        name: value * scale["loss" if "loss" in name else "acc"] for name, value in losses.items()
    }


def _get_share(total: Tensor) -> Tensor:
    """Share of this process in the sum over all processes, times their number."""
    everywhere = all_sum(total)
    return total * world_size() / torch.where(everywhere > 0, everywhere, 1)


def _list_losses(head: BaseDecodeHead) -> list[Any]:
    losses = head.loss_decode
    return list(losses) if isinstance(losses, nn.ModuleList) else [losses]


def _check_losses(head: BaseDecodeHead) -> None:
    """Raise UsageError if processes cannot compute a loss of the head on parts of a batch."""
    losses = _list_losses(head)
    losses += [m for n, m in head.named_children() if n.startswith("loss") and n != "loss_decode"]
    for loss in losses:
        name = type(loss).__name__
        is_plain = name == "CrossEntropyLoss" and not loss.use_mask
        # mmseg's mean with class weights is over the weights of valid pixels without this option.
        is_plain = is_plain and loss.avg_non_ignore == (loss.class_weight is None)
        is_plain = is_plain and loss.class_weight == losses[0].class_weight
        if not is_plain or loss.reduction != "mean":
            raise UsageError(
                f"decoder.settings: {name} with these settings is not a mean over valid pixels, "
                "so several processes cannot compute it together. Train with one process, or with "
                "a CrossEntropyLoss and class_weights."
            )
    if head.sampler is not None:
        raise UsageError(
            f"decoder.settings: {type(head.sampler).__name__} samples pixels from the whole batch, "
            "which several processes cannot do together. Train with one process, or without the "
            "sampler."
        )
