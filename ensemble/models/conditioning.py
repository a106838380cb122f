"""Conditions: what a denoiser is told beside the noisy images.

A condition has one entry for each image. Whoever batches, repeats or guides images does
the same to their condition, and need not know of which kind it is. A new kind is one
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
    """What a denoiser is told, one entry for each image."""

    # Whether there is nothing to guide away from, because nothing is said.
    says_nothing: ClassVar[bool] = False

    @abc.abstractmethod
    def __getitem__(self, chosen: Any) -> "Condition":
        """The entries of some images, chosen as a tensor's first axis is."""

    @abc.abstractmethod
    def repeat(self, n_times: int) -> "Condition":
        """Every entry so often in a row, as `repeat_interleave` has it."""

    @abc.abstractmethod
    def null(self) -> "Condition":
        """The condition that says nothing, for as many images (Ho & Salimans 2022)."""

    @abc.abstractmethod
    def to(self, device: torch.device | str) -> "Condition":
        """The same on another device."""

    @abc.abstractmethod
    def arguments(self) -> dict[str, Tensor]:
        """What a denoiser's forward pass is given, by name."""

    @abc.abstractmethod
    def digest(self) -> str | None:
        """What tells this condition from another one; None where nothing is said."""


class Nothing(Condition):
    """Unconditional denoisers are told nothing, for however many images.

    >>> NOTHING[3:5].repeat(2) is NOTHING
    True
    """

    says_nothing = True

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


NOTHING = Nothing()


@dataclass(frozen=True, eq=False)
class ClassLabels(Condition):
    """The label of each image.

    >>> ClassLabels(torch.tensor([2, 0]), null_label=3).repeat(2).labels
    tensor([2, 2, 0, 0])

    Attributes:
        labels: From 0 to `null_label`.
        null_label: The label that stands for "no label".
    """

    labels: Int[Tensor, " images"]
    null_label: int

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, chosen: Any) -> "ClassLabels":
        """The labels of some images."""
        return ClassLabels(self.labels[chosen], self.null_label)

    def repeat(self, n_times: int) -> "ClassLabels":
        """Every label so often in a row."""
        return ClassLabels(self.labels.repeat_interleave(n_times), self.null_label)

    def null(self) -> "ClassLabels":
        """No label, for as many images."""
        return ClassLabels(
            torch.full_like(self.labels, self.null_label), self.null_label
        )

    def hidden(self, images: Tensor) -> "ClassLabels":
        """The same without the labels of some images.

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
        """As `UNet2DModel` takes them."""
        return {"class_labels": self.labels}

    def digest(self) -> str | None:
        """Of the labels."""
        return files.array_digest(self.labels.detach().cpu().numpy())


@dataclass(frozen=True, eq=False)
class TextEmbeddings(Condition):
    """What a frozen text encoder made of each image's text.

    Attributes:
        states: One row for each token of each text.
        null_states: The same of the empty text.
    """

    states: Float[Tensor, "images tokens width"]
    null_states: Float[Tensor, "tokens width"]

    def __len__(self) -> int:
        return len(self.states)

    def __getitem__(self, chosen: Any) -> "TextEmbeddings":
        """The embeddings of some images."""
        return TextEmbeddings(self.states[chosen], self.null_states)

    def repeat(self, n_times: int) -> "TextEmbeddings":
        """Every embedding so often in a row."""
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
        """As `UNet2DConditionModel` takes them."""
        return {"encoder_hidden_states": self.states}

    def digest(self) -> str | None:
        """Of the embeddings, and of what the empty text is."""
        parts = (self.states, self.null_states)
        return files.array_digest(
            torch.cat([part.reshape(-1) for part in parts]).detach().cpu().numpy()
        )
