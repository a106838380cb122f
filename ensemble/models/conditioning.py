"""Conditions: the conditioning input of a denoiser, beside the noisy images.

A condition has one entry for each image. Code that batches, repeats or guides images
does the same to their condition, and does not depend on its kind. A new kind is one
class here.
"""

import abc
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ensemble.run import files


class Condition(abc.ABC):
    """The conditioning input of a denoiser, one entry for each image."""

    # Whether the condition carries no information, so guidance has no effect.
    is_unconditional: ClassVar[bool] = False

    @abc.abstractmethod
    def __getitem__(self, chosen: Any) -> "Condition":
        """The entries of some images, chosen as a tensor's first axis is."""

    @abc.abstractmethod
    def repeat(self, n_times: int) -> "Condition":
        """Each entry repeated `n_times` in a row, as by `repeat_interleave`."""

    @abc.abstractmethod
    def null(self) -> "Condition":
        """The null condition for as many images (Ho & Salimans 2022)."""

    @abc.abstractmethod
    def to(self, device: torch.device | str) -> "Condition":
        """The same on another device."""

    @abc.abstractmethod
    def arguments(self) -> dict[str, Tensor]:
        """The keyword arguments of a denoiser's forward pass."""

    @abc.abstractmethod
    def digest(self) -> str | None:
        """A digest of the entries; None for an unconditional denoiser."""


class Unconditional(Condition):
    """The condition of unconditional denoisers, for any number of images.

    >>> UNCONDITIONAL[3:5].repeat(2) is UNCONDITIONAL
    True
    """

    is_unconditional = True

    def __getitem__(self, chosen: Any) -> Condition:
        """Nothing."""
        return self

    def repeat(self, n_times: int) -> Condition:
        """Nothing."""
        return self

    def null(self) -> Condition:
        """Nothing."""
        return self

    def to(self, device: torch.device | str) -> Condition:
        """Nothing."""
        return self

    def arguments(self) -> dict[str, Tensor]:
        """No argument."""
        return {}

    def digest(self) -> str | None:
        """None."""
        return None


UNCONDITIONAL = Unconditional()


@dataclass(frozen=True, eq=False)
class ClassLabels(Condition):
    """The label of each image.

    >>> ClassLabels(torch.tensor([2, 0]), null_label=3).repeat(2).labels
    tensor([2, 2, 0, 0])

    Attributes:
        labels: Labels from 0 to `null_label`.
        null_label: The null class of classifier-free guidance.
    """

    labels: Int[Tensor, " images"]
    null_label: int

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, chosen: Any) -> "ClassLabels":
        """The labels of some images."""
        return ClassLabels(self.labels[chosen], self.null_label)

    def repeat(self, n_times: int) -> "ClassLabels":
        """Each label repeated `n_times` in a row."""
        return ClassLabels(self.labels.repeat_interleave(n_times), self.null_label)

    def null(self) -> "ClassLabels":
        """The null class for as many images."""
        return ClassLabels(
            torch.full_like(self.labels, self.null_label), self.null_label
        )

    def hidden(self, images: Tensor) -> "ClassLabels":
        """The condition with the labels of some images replaced by the null class.

        Args:
            images: True where the label is hidden.
        """
        return ClassLabels(
            self.labels.masked_fill(images, self.null_label), self.null_label
        )

    def to(self, device: torch.device | str) -> "ClassLabels":
        """The same on another device."""
        return ClassLabels(self.labels.to(device), self.null_label)

    def arguments(self) -> dict[str, Tensor]:
        """The arguments of `UNet2DModel`."""
        return {"class_labels": self.labels}

    def digest(self) -> str | None:
        """Of the labels."""
        return files.array_digest(self.labels.detach().cpu().numpy())


@dataclass(frozen=True, eq=False)
class TextEmbeddings(Condition):
    """The embeddings of each image's text by a frozen text encoder.

    Attributes:
        states: One row for each token of each text.
        null_states: The embeddings of the empty text.
    """

    states: Float[Tensor, "images tokens width"]
    null_states: Float[Tensor, "tokens width"]

    def __len__(self) -> int:
        return len(self.states)

    def __getitem__(self, chosen: Any) -> "TextEmbeddings":
        """The embeddings of some images."""
        return TextEmbeddings(self.states[chosen], self.null_states)

    def repeat(self, n_times: int) -> "TextEmbeddings":
        """Each embedding repeated `n_times` in a row."""
        return TextEmbeddings(
            self.states.repeat_interleave(n_times, dim=0), self.null_states
        )

    def null(self) -> "TextEmbeddings":
        """The empty text, for as many images."""
        return TextEmbeddings(self.null_states.expand_as(self.states), self.null_states)

    def to(self, device: torch.device | str) -> "TextEmbeddings":
        """The same on another device."""
        return TextEmbeddings(self.states.to(device), self.null_states.to(device))

    def arguments(self) -> dict[str, Tensor]:
        """The arguments of `UNet2DConditionModel`."""
        return {"encoder_hidden_states": self.states}

    def digest(self) -> str | None:
        """Of the embeddings, and of what the empty text is."""
        every = torch.cat([self.states, self.null_states[None]])
        return files.array_digest(every.detach().cpu().numpy())
