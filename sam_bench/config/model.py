"""The settings of the network."""

from typing import Any, Literal

from pydantic import Field, model_serializer

from sam_bench.config.fields import Settings, check_applicable
from sam_bench.models.registry import MODELS


class ModelConfig(Settings):
    """The network (`model=`)."""

    #: The kind of network. `model=NAME` sets it together with the settings below.
    family: Literal[*MODELS]
    #: Layers with weights, as the family's paper counts them.
    depth: int | None = Field(default=None, ge=1)
    #: For a wide residual network: the factor on ResNet's number of channels.
    width: int | None = Field(default=None, ge=1)
    #: PyramidNet's α: the number of channels that all blocks together add.
    alpha: int | None = Field(default=None, ge=1)
    #: For ResNeXt: the number of groups of its convolutions.
    groups: int | None = Field(default=None, ge=1)
    #: For ResNeXt: channels of each group in the first stage.
    group_width: int | None = Field(default=None, ge=1)
    #: The accuracy in percent that an airbench network is named after, 94 or 96.
    accuracy: int | None = Field(default=None, ge=1)
    #: With `model=torchvision`: the name of the classifier, such as resnet18.
    arch: str | None = None

    def model_post_init(self, context: Any) -> None:
        optional = {name: getattr(self, name) for entry in MODELS.values() for name in entry.options}
        check_applicable("model", optional, MODELS[self.family].options, self.family)
        MODELS[self.family].check(self.options())

    @classmethod
    def unknown(cls, name: str, path: str) -> str:
        if name == "name":
            return "Unknown setting model.name. Choose a network with model=NAME"
        return super().unknown(name, path)

    def options(self) -> dict[str, object]:
        """Return the arguments of the network's constructor, except the number of classes."""
        return {name: getattr(self, name) for name in MODELS[self.family].options}

    @property
    def name(self) -> str:
        """Return the network's name in papers, tables and records, such as wrn16_8."""
        return MODELS[self.family].name_of(self.options())

    @property
    def title(self) -> str:
        """Return the name, followed by the settings that it leaves out, such as torchvision-resnet18."""
        return "-".join((self.name, *map(str, self._unnamed().values())))

    @model_serializer
    def _dump(self) -> dict[str, object]:
        """Return the name, which implies most settings, and the settings that it leaves out."""
        return {"name": self.name, **self._unnamed()}

    def _unnamed(self) -> dict[str, object]:
        return {name: getattr(self, name) for name in MODELS[self.family].unnamed}
