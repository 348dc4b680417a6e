"""The radii that methods were published with, each with its source."""

from dataclasses import dataclass

#: The entry of `Radius.used` for a method's value in `conf/optimizer`.
DEFAULT = "default"


@dataclass(frozen=True)
class Radius:
    """A published radius of a method."""

    method: str
    rho: float
    #: Network and data; "–" if it is the default of a class or program.
    setting: str
    source: str
    #: Where this project uses it: `DEFAULT`, or the names of presets.
    used: tuple[str, ...] = ()


_AS_SAM = "SAM's, as none of its authors' own was found"

#: Read in the methods' public code, unless the source names a paper.
RADII = (
    Radius("sam", 0.05, "WRN-22-8, CIFAR-10", "the SAM example, and its class", (DEFAULT, "sam_example")),
    Radius("sam", 0.05, "ResNet-20, WRN-28-2, ResNeXt-29, CIFAR-10", "a closure-style example", ("closure_example",)),
    Radius("sam", 0.1, "ResNet-32, CIFAR-10 with 20 to 60 % wrong labels", "Foret et al. (2021), table 4"),
    Radius("sam", 0.05, "ResNet-32, CIFAR-10 with 80 % wrong labels", "Foret et al. (2021), table 4"),
    Radius("sam", 2.0, "SAM in the last ten of 160 epochs", "Zhou et al.'s (2024) script"),
    Radius(
        "asam", 2.0, "WRN-22-8, CIFAR-10", "the SAM example, best of four on the test set", (DEFAULT, "sam_example")
    ),
    Radius("asam_official", 0.5, "WRN-28-10, CIFAR-10", "the authors' code", (DEFAULT, "asam_official")),
    Radius("asam_official", 1.0, "CIFAR-100", "the authors' code"),
    Radius("gsam", 2.0, "WRN-22-8, CIFAR-10", "the GSAM example, adaptive", (DEFAULT, "gsam_example")),
    Radius(
        "gsam",
        6.0,
        "WRN-22-8, CIFAR-10",
        "the GSAM example at first, from 6 down to 2",
    ),
    Radius("wsam", 0.05, "–", "the authors' class", (DEFAULT,)),
    Radius("wsam", 0.2, "ResNet-18, CIFAR-10", "the authors' script", ("wsam_example",)),
    Radius("wasam", 0.05, "–", "the authors' class", (DEFAULT,)),
    Radius("wasam", 0.1, "ResNet-18, CIFAR-100", "the authors' example", ("wasam_cifar10",)),
    Radius("gnp", 0.1, "–", "the authors' code", (DEFAULT,)),
    Radius("fsam", 0.2, "–", "the authors' code", (DEFAULT,)),
    Radius("vasso", 0.1, "–", "the authors' class", (DEFAULT,)),
    Radius("vasso", 0.05, "–", "the authors' command line"),
    Radius("looksam", 0.1, "–", "its public code", (DEFAULT,)),
    Radius("sam_every_k", 0.05, "–", _AS_SAM, (DEFAULT,)),
    Radius("ss_sam", 0.05, "–", _AS_SAM, (DEFAULT,)),
    Radius("ae_sam", 0.05, "–", _AS_SAM, (DEFAULT,)),
    Radius("msam", 3.0, "–", "the authors' scripts", (DEFAULT,)),
    Radius("msam", 0.3, "–", "the authors' class"),
    Radius("sam_on", 0.05, "–", _AS_SAM, (DEFAULT,)),
    Radius("sam_on", 10.0, "CIFAR-100", "the authors' command, element-wise"),
    Radius("usam", 0.05, "–", _AS_SAM, (DEFAULT,)),
    Radius("unified_sam", 0.05, "–", _AS_SAM, (DEFAULT,)),
    Radius("zsharp", 0.05, "–", "the author's class, of each tensor by itself", (DEFAULT,)),
    Radius("stable_sam", 0.05, "–", "the authors' code", (DEFAULT,)),
    Radius("saner", 0.1, "–", "the authors' command", (DEFAULT,)),
    Radius("sampa", 0.1, "–", "the authors' code", (DEFAULT,)),
    Radius("bsam", 0.01, "ResNet-18, CIFAR-10", "the authors' command", (DEFAULT,)),
    Radius("esam", 0.05, "–", _AS_SAM, (DEFAULT,)),
)
